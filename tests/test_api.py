"""Tests of the Python interface: own data to an acting policy, and the way back to a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import decision_seq as ds
from decision_seq.cli import main
from decision_seq.envs import named
from decision_seq.types import Episode, UserError
from decision_seq.user_choices import Named, recall, remember
from tests.conftest import Lines
from tests.test_train import TINY

ROOT = Path(__file__).parent.parent
OWN = """
import gymnasium, numpy as np

class Arm(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        angle=gymnasium.spaces.Box(-9, 9, (3,)), goal=gymnasium.spaces.Box(-9, 9, (2,))
    )
    action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=5).astype(np.float32).clip(-9, 9)
        return {"angle": self.state[:3], "goal": self.state[3:]}, {}

    def step(self, action):
        self.state = (0.9 * self.state).astype(np.float32)
        self.state[:2] += 0.1 * action
        seen = {"angle": self.state[:3], "goal": self.state[3:]}
        return seen, -float(np.abs(self.state[:2]).sum()), False, False, {}

gymnasium.register("OwnArm-v0", entry_point=Arm, max_episode_steps=30)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an environment in a module of the current folder."""
    (tmp_path / "own_arm.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield "own_arm:OwnArm-v0"
    sys.path[:] = path
    sys.modules.pop("own_arm", None)
    gymnasium.registry.pop("OwnArm-v0", None)
    named._trusted.discard("own_arm:OwnArm-v0")


def arm_episodes(count: int = 6, length: int = 30) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            "observations": {
                "angle": rng.normal(size=(length + 1, 3)),
                "goal": rng.normal(size=(length + 1, 2)),
            },
            "actions": rng.uniform(-2, 2, (length, 2)),
            "rewards": rng.normal(size=length),
            "truncated": True,
        }


def config(**settings: Any) -> Any:
    tiny = {"train": {**TINY["train"], "steps": 6, "trackers": []}, "policy": TINY["policy"]}
    return ds.load_config("dt/gym", dataset="mine", **tiny, **settings)


def test_own_data_and_environment_to_an_acting_policy(own: str) -> None:
    store = ds.write_dataset("mine", arm_episodes(), env_id=own)
    assert (store.num_episodes, store.observation_shape) == (6, (5,))
    assert store.header["max_episode_steps"] == 30
    assert store.header["action_bounds"] == [[-2.0, -2.0], [2.0, 2.0]]

    run = ds.train(config(**{"evaluation.episodes": 3}), "runs/mine", progress=False)
    assert run is not None
    assert run.path == Path("runs/mine")
    (best, _) = run.scores.targets
    assert best.target == pytest.approx(store.returns.max(), abs=1e-4)
    assert best.lengths == [30, 30, 30]
    scores = ds.evaluate("runs/mine", targets=["q90"], episodes=2, progress=False)
    assert [t.target for t in scores.targets] == [
        pytest.approx(np.percentile(store.returns, 90), abs=1e-4)
    ]

    env = gymnasium.make("OwnArm-v0")
    agent = ds.Agent.load("runs/mine", env=env)
    seen, _ = env.reset(seed=10_000)
    agent.reset()
    total, over = 0.0, False
    while not over:
        seen, reward, _, over, _ = env.step(agent.act(seen))
        agent.observe(reward)
        total += float(reward)
    assert total == best.returns[0]
    assert type(ds.load_policy("runs/mine").policy).__name__ == "DecisionTransformer"


def test_a_run_names_its_environment_again_for_its_user_alone(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The resume command and `evaluate` work as printed; in another home they ask for the name."""
    ds.write_dataset("mine", arm_episodes(), env_id=own)
    ds.train(config(**{"evaluation.episodes": 1}), "runs/mine", progress=False)

    def forget() -> None:
        named._trusted.discard(own)

    forget()
    assert main(["train", "--output", "runs/mine", "--resume"]) == 0
    forget()
    assert main(["evaluate", "runs/mine", "--episodes", "1", "--workers", "1"]) == 0
    forget()
    Path("runs/mine").rename("moved")
    assert main(["evaluate", "moved/checkpoints/step-00000006", "--episodes", "1"]) == 0
    capsys.readouterr()

    forget()
    home = os.environ["HOME"]
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    remember(tmp_path, Named("Another-v0"), Lines())  # this user has a key too
    assert main(["evaluate", "moved", "--episodes", "1"]) == 2
    assert "only for an environment that you name yourself" in capsys.readouterr().err
    assert main(["evaluate", "moved", "--episodes", "1", "--env", own]) == 0
    capsys.readouterr()

    # Names without this user's signature count as a stranger's.
    monkeypatch.setenv("HOME", home)
    forget()
    path = Path("moved/named.json")
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "signature": "0" * 64}))
    assert main(["evaluate", "moved", "--episodes", "1"]) == 2
    assert "only for an environment that you name yourself" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", '{"modules": [1]}', '{"env_id": 3, "modules": [], "signature": "x"}']
)
def test_damaged_names_are_none(tmp_path: Path, content: str) -> None:
    remember(tmp_path, Named("My-v0", ("my_plugin",)), Lines())
    assert recall(tmp_path) == Named("My-v0", ("my_plugin",))
    (tmp_path / "named.json").write_text(content)
    assert recall(tmp_path) is None


def test_without_a_home_the_names_are_not_kept_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    reporter = Lines()
    remember(tmp_path, Named("My-v0"), reporter)
    assert "your choice of My-v0 cannot be kept" in reporter.lines[0]
    assert recall(tmp_path) is None


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Worker processes do not run the user's script again, and what it defines stays in it."""
    script = OWN + (
        "import decision_seq as ds\n"
        "from decision_seq.machine.workers import Helpers\n"
        "print('begun', flush=True)\n"
        "rng = np.random.default_rng(0)\n"
        "ds.write_dataset('mine', ({'observations': {'angle': rng.normal(size=(30, 3)),"
        " 'goal': rng.normal(size=(30, 2))}, 'actions': rng.uniform(-1, 1, (30, 2)),"
        " 'rewards': np.ones(30), 'terminated': False} for _ in range(9)), env_id='OwnArm-v0')\n"
        "few = {'train.steps': 2, 'train.warmup_steps': 1, 'train.trackers': []}\n"
        "config = ds.load_config('bc/gym', dataset='mine', **few,"
        " **{'evaluation.episodes': 9, 'evaluation.workers': 2})\n"
        "print(ds.train(config, 'run', progress=False).scores.targets[0].lengths)\n"
        "from tests.test_api import counted\n"
        "with Helpers(1, counted, None, 3) as helpers: print(list(helpers.produced(wait=True)))\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[0] == "begun", done.stderr
    assert done.stdout.count("begun") == 1
    assert "[30, 30, 30, 30, 30, 30, 30, 30, 30]" in done.stdout
    assert done.stdout.strip().endswith("[0, 1, 2]")


def counted(shared: None, count: int) -> Iterator[int]:
    yield from range(count)


def episode(**changes: Any) -> dict[str, Any]:
    whole = {
        "observations": np.zeros((4, 2)),
        "actions": np.zeros((4, 1)),
        "rewards": np.ones(4),
        "terminated": True,
    }
    return {k: v for k, v in {**whole, **changes}.items() if v is not None}


FORMS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "flags of steps": (
        episode(terminated=[False, False, False, True]),
        lambda store: bool(store.terminated[0]),
    ),
    "time limit": (
        episode(terminated=None, truncated=True),
        lambda store: bool(store.truncated[0]) and not store.terminated[0],
    ),
    "choices": (
        episode(actions=[0, 2, 1, 0]),
        lambda store: store.columns["actions"].dtype.kind == "i",
    ),
    "one number": (
        episode(actions=[0.0, 2.0, 1.0, 0.5], observations=[1.0, 2.0, 3.0, 4.0]),
        lambda store: store.columns["actions"].shape == (4, 1),
    ),
    "final observation": (
        episode(observations=np.zeros((5, 2))),
        lambda store: store.episode(0).has_final_observation,
    ),
    "images": (
        episode(observations=np.zeros((4, 2, 3), np.uint8)),
        lambda store: store.observation_shape == (6,),
    ),
    "an Episode": (
        Episode(np.zeros((4, 2)), np.zeros((4, 1)), np.ones(4), True, False),
        lambda store: store.num_transitions == 4,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_episodes(tmp_path: Path, form: str) -> None:
    given, holds = FORMS[form]
    assert holds(ds.write_dataset(tmp_path / "new", [given]))


BAD: dict[str, tuple[Any, str]] = {
    "no rewards": (episode(rewards=None), "episode 0 has no 'rewards' (it holds actions"),
    "no end": (episode(terminated=None), "episode 0 has no 'terminated' or 'truncated'"),
    "lengths": (episode(actions=np.zeros((3, 1))), "4 observations, 3 actions and 4 rewards"),
    "text": (episode(rewards=["a"] * 4), "episode 0: rewards are <U1"),
    "early": (episode(terminated=[True, False, False, False]), "is set at step 0 of 4"),
    "kind": ([1, 2], "episode 0 is a list; give a mapping or an Episode"),
    "nan": (episode(rewards=np.full(4, np.nan)), "rewards hold NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_episode_is_named_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    given, message = BAD[case]
    with pytest.raises(UserError) as failed:
        ds.write_dataset(tmp_path / "new", [given])
    assert message in str(failed.value)
    assert list(tmp_path.glob("new*")) == []


def test_settings_are_checked_as_on_the_command_line() -> None:
    made = ds.load_config("dt/gym", dataset="x", seed=3, **{"train.betas": (0.8, 0.9)})
    assert (made.dataset, made.seed, made.train.betas) == ("x", 3, (0.8, 0.9))
    assert made.method == "dt/gym"
    for settings, message in (
        ({"train.step": 5}, "unknown key train.step"),
        ({"train": {"steps": "many"}}, "train.steps 'many' is no whole number"),
        ({"plugins": ["absent_x"]}, "needs the plugin absent_x"),
    ):
        with pytest.raises(UserError, match=message):
            ds.load_config("dt/gym", **settings)
    with pytest.raises(UserError, match="no recipe is called"):
        ds.load_config("dt/gymm")
    with pytest.raises(UserError, match="needs the run's folder"):
        ds.train(made, resume="must")


def test_the_import_is_light() -> None:
    """Under 0.2 s, without PyTorch; every public name exists and is documented."""
    code = (
        "import sys, time; begun = time.process_time(); import decision_seq as ds;"
        "spent = time.process_time() - begun; assert 'torch' not in sys.modules;"
        "assert all(getattr(ds, name).__doc__ for name in ds.__all__);"
        "assert set(ds.__all__) <= set(dir(ds)); print(spent)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(done.stdout) < 0.2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ds.nothing
