"""Tests of Atari: preprocessing equals that of ale-py's own vector environment, to the bit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq import envs
from decision_seq.envs.atari import SIDE, Shrink
from decision_seq.envs.atari_scores import env_id_of
from decision_seq.types import UserError

pytest.importorskip("ale_py")


def vector_env(game: str, **options: Any) -> Any:
    from ale_py.vector_env import AtariVectorEnv

    plain = {"reward_clipping": False, "use_fire_reset": False, "noop_max": 0}
    return AtariVectorEnv(game, 1, num_threads=1, **plain, **options)


# Air Raid's screen has 250 rows.
@pytest.mark.parametrize(
    ("game", "steps", "ends"),
    [
        ("pong", 300, False),
        ("breakout", 300, True),
        ("seaquest", 300, False),
        ("qbert", 350, True),
        ("air_raid", 300, False),
    ],
)
def test_frames_rewards_and_ends_are_those_of_atari_vector_env(
    game: str, steps: int, ends: bool
) -> None:
    """No-ops are off, as the two draw them with different generators."""
    ours, theirs = envs.make(f'{env_id_of(game)}?{{"noop_max": 0}}'), vector_env(game)
    rng = np.random.default_rng(0)
    seen: tuple[Any, ...] = ours.reset(seed=0)[0], 0.0, False, False
    expected = theirs.reset(seed=0)[0], *np.zeros((3, 1))
    starts = 1
    for step in range(steps):
        np.testing.assert_array_equal(seen[0], expected[0][0], f"step {step}")
        assert seen[1:4] == tuple(value[0] for value in expected[1:4]), f"step {step}"
        if seen[2] or seen[3]:
            starts += 1
            seen = ours.reset(seed=step)[0], 0.0, False, False
            expected = theirs.reset(seed=0)[0], *np.zeros((3, 1))
            assert not seen[0][:-1].any()
        else:
            action = rng.integers(ours.action_space.n)
            seen, expected = ours.step(action), theirs.step(np.array([action]))
    assert (starts > 1) == ends


def test_an_episode_is_truncated_after_thirty_minutes_of_play() -> None:
    spec = envs.make("atari/Pong-v0").spec
    assert spec.max_episode_steps == envs.FACTS["atari/pong"].max_episode_steps == 27_000
    ours = envs.make('atari/Freeway-v0?{"noop_max": 0, "max_episode_steps": 20}')
    theirs = vector_env("freeway", max_num_frames_per_episode=80)
    ours.reset(seed=0), theirs.reset(seed=0)
    ends = [
        (*ours.step(1)[2:4], *(x[0] for x in theirs.step(np.array([1]))[2:4])) for _ in range(20)
    ]
    assert ends == [(False,) * 4] * 19 + [(False, True, False, True)]


def played(env: Any, seed: int, steps: int) -> list[Any]:
    """All outputs of an episode, and the emulator's memory."""
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        *step, _ = env.step(int(rng.integers(env.action_space.n)))
        seen.append((*step, env.unwrapped.ale.getRAM()))
        if step[2] or step[3]:
            break
    return seen


@pytest.mark.parametrize("noop_max", [0, 30])
@pytest.mark.parametrize("game", ["assault", "breakout"])  # a plain reset would fail for Assault
def test_an_episode_is_a_function_of_its_seed_alone(game: str, noop_max: int) -> None:
    options = f'{{"repeat_action_probability": 0.25, "noop_max": {noop_max}}}'
    env_id = f"{env_id_of(game)}?{options}"
    env = envs.make(env_id)
    first = played(env, 5, 40)
    other = played(env, 6, 150)
    again, elsewhere = played(env, 5, 40), played(envs.make(env_id), 5, 40)
    for one, two, three in zip(first, again, elsewhere, strict=True):
        np.testing.assert_equal(one, two)
        np.testing.assert_equal(one, three)
    assert any((one[-1] != two[-1]).any() for one, two in zip(first[1:], other[1:], strict=False))


def frames_until_start(env: Any, seed: int) -> int:
    env.reset(seed=seed)
    return env.unwrapped.ale.getEpisodeFrameNumber()


def test_no_ops_are_drawn_from_the_seed() -> None:
    env = envs.make("atari/Pong-v0")
    drawn = [frames_until_start(env, seed) for seed in range(80)]
    assert (min(drawn), max(drawn)) == (0, 30)
    assert len(set(drawn)) > 20
    assert [frames_until_start(env, seed) for seed in range(9)] == drawn[:9]
    few = envs.make('atari/Pong-v0?{"noop_max": 2}')
    assert {frames_until_start(few, seed) for seed in range(12)} == {0, 1, 2}


def test_sticky_actions_repeat_the_former_frames_action() -> None:
    """A quarter of 4,000 frames repeats the previous action where the step's action differs."""
    env = envs.make('atari/Pong-v0?{"repeat_action_probability": 0.25}').unwrapped
    env.reset(seed=0)
    held, kept = env.held, 0
    for step in range(4000):
        chosen = env.actions[step % 2]
        env._act(chosen)
        assert env.held in (chosen, held)
        kept += env.held != chosen
        held = env.held
    # The actions have period 2: the previous one differs from the new one unless it was repeated
    # itself, so P(kept) = p (1 - P(kept before)).
    assert kept / 4000 == pytest.approx(0.25 / 1.25, abs=0.03)
    plain = envs.make("atari/Pong-v0").unwrapped
    plain.reset(seed=0)
    for step in range(40):
        plain._act(plain.actions[step % 2])
        assert plain.held == plain.actions[step % 2]


@pytest.mark.parametrize("height", [210, 250])
def test_a_screen_is_shrunk_by_area(height: int) -> None:
    """Each pixel is the mean of the area it covers: 2.5 rows of 210, nearly 3 rows of 250."""
    screen = np.random.default_rng(0).integers(0, 256, (height, 160), np.uint8)
    rows = np.repeat(screen.astype(float), SIDE, 0).reshape(SIDE, height, 160).mean(1)
    means = np.repeat(rows, SIDE, 1).reshape(SIDE, SIDE, 160).mean(2)
    assert np.abs(Shrink(height, 160)(screen) - means).max() <= 0.51
    assert (Shrink(height, 160)(np.full_like(screen, 255)) == 255).all()


def test_a_game_of_another_height_and_its_picture() -> None:
    env = envs.make("atari/AirRaid-v0", render_mode="rgb_array")
    frames, _ = env.reset(seed=0)
    assert (frames.shape, frames.dtype) == ((4, 84, 84), np.uint8)
    assert env.render().shape == (250, 160, 3)


def test_every_game_of_the_table_has_an_environment() -> None:
    import gymnasium

    envs.make("atari/Pong-v0").close()
    families = [name for name in envs.FACTS if name.startswith("atari/")]
    assert len(families) == 57
    for family in families:
        env_id = envs.FACTS[family].env_id
        assert env_id in gymnasium.registry
        assert envs.facts_by_name(env_id) == (family, envs.FACTS[family])
        assert envs.facts_by_name(f'{env_id}?{{"noop_max": 0}}') == (family, envs.FACTS[family])
    assert envs.facts_by_name("atari/MsPacman") == ("atari/mspacman", envs.FACTS["atari/mspacman"])
    assert envs.facts_by_name("atari/bundled-pong") is None
    assert envs.facts_by_name("pong") is None


def test_a_score_says_how_it_was_played() -> None:
    notes = envs.environment_notes('atari/Pong-v0?{"repeat_action_probability": 0.25}')
    assert "ale-py" in notes[0]
    assert "mujoco" not in notes[0]
    assert "0 to 30 no-ops at the start, actions stick with probability 0.25" in notes[1]
    assert "after 108,000 frames" in notes[1]
    assert "100 a human" in notes[2]
    assert len(envs.environment_notes("atari/Pooyan-v0")) == 2  # no reference scores are known


@pytest.mark.parametrize(
    ("env_id", "complaint"),
    [
        ("atari/Pang-v0", "did you mean atari/Pong-v0"),
        ("atari/mspacman-v0", "did you mean atari/MsPacman-v0"),
        ("atari/Pong-v4", "provides versioned environments: . `v0`"),
        ('atari/Pong-v0?{"noop_max": -1}', "noop_max -1"),
        ('atari/Pong-v0?{"repeat_action_probability": 1}', "repeat_action_probability 1 must"),
        ('atari/Pong-v0?{"repeat_action_probability": "a"}', "repeat_action_probability 'a' must"),
        ('atari/Pong-v0?{"sticky": 1}', "takes no 'sticky'"),
        ('atari/Pong-v0?{"render_mode": "human"}', "render_mode is no part of an id"),
    ],
)
def test_what_is_wrong_with_an_id_is_one_line(env_id: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        envs.make(env_id)
    assert "\n" not in str(caught.value)
    assert complaint.partition(" ")[0] in str(envs.obstacle(env_id, None))


def test_a_missing_package_or_rom_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    (tmp_path / "breakout.bin").write_bytes(b"no game")
    for game in ("Pong", "Breakout"):
        with pytest.raises(UserError, match=rf"{tmp_path}/{game.lower()}.bin is not there"):
            envs.make(f"atari/{game}-v0")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "ale_py" else find(n))
    assert "pip install 'decision-seq[atari]'" in str(envs.obstacle("atari/Pong-v0", "atari/pong"))


def test_the_emulator_is_quiet_and_loaded_only_for_its_games() -> None:
    code = (
        "import sys; from decision_seq import envs; envs.make('Hopper-v4');"
        "assert 'ale_py' not in sys.modules; envs.make('atari/Pong-v0').reset(seed=0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""
