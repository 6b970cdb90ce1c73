"""Tests of videos: they show the evaluated episodes, are complete, and work without OpenGL."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decision_seq import cli
from decision_seq import config as configs
from decision_seq.datasets.collected.bundled import collect_recipe, recipe
from decision_seq.datasets.collected.collection import Size
from decision_seq.envs import make
from decision_seq.evaluation import open_checkpoint, video
from decision_seq.evaluation.acting import make_actor
from decision_seq.evaluation.video import Studio, rendering, writers
from decision_seq.evaluation.video.caption import Caption
from decision_seq.evaluation.video.strip import KEPT, STILLS, Stills, draw_strip
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines
from tests.test_train import TINY
from tests.waiting import LIMIT


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not one without OpenGL."""
    monkeypatch.setattr(rendering, "PROBE_SECONDS", LIMIT)


@pytest.fixture
def no_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_draws", lambda backend: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Reacher2d, whose episodes have 100 steps and sparse rewards."""
    folder = tmp_path_factory.mktemp("video")
    store = collect_recipe(
        "reacher2d-medium", recipe("reacher2d-medium"), folder / "store", Size(400), workers=1
    )
    config = configs.load(Config, TINY, {"dataset": str(store.path), "train": {"trackers": []}})
    experiment.train(config, folder / "run")
    return folder / "run"


def film(run: Path, folder: Path, episodes: int = 2, reporter: Reporter | None = None) -> Any:
    """Scores of 3 episodes for 2 targets, and videos of the first ones."""
    opened = open_checkpoint(run, "cpu", targets=[40, 10], episodes=3)
    studio = Studio(opened, folder, episodes, reporter or Reporter())
    scores = opened.scores()
    return scores, studio.film(scores)


def test_the_filmed_episodes_are_those_of_the_evaluation(
    trained: Path, tmp_path: Path, no_opengl: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []

    def draw(path: Path, *what: Any) -> None:
        drawn.append(what)
        draw_strip(path, *what)

    monkeypatch.setattr(video, "draw_strip", draw)
    reporter = Lines()
    scores, written = film(trained, tmp_path / "new" / "films", 2, reporter)
    first = scores.targets[0]
    assert len(set(first.returns)) > 1  # otherwise any episode would pass
    for i, (env_id, target, seed, rewards, stills) in enumerate(drawn):
        assert (env_id, target, seed) == ("Reacher2d-v0", 40, first.seed + i)
        assert (sum(rewards), len(rewards)) == (first.returns[i], first.lengths[i])
        steps = [step for step, _ in stills]
        assert (steps[0], steps[-1], len(steps)) == (0, first.lengths[i], STILLS)
    assert len(drawn) == 2
    names = [f"target40-seed{first.seed + i}" for i in (0, 1)]
    assert sorted(path.name for path in written) == sorted(
        name + suffix for name in names for suffix in (writers.suffix(), ".png")
    )
    assert {path.name for path in (tmp_path / "new" / "films").iterdir()} == {
        path.name for path in written
    }
    assert not [line for line in reporter.lines if "not the same" in line]
    assert any("MuJoCo finds no OpenGL" in line for line in reporter.lines)


def test_films_are_of_the_precision_evaluated(
    trained: Path, tmp_path: Path, no_opengl: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_checkpoint(trained, "cpu", targets=[40], episodes=1, precision="bf16")
    scores = opened.scores()
    asked = []
    monkeypatch.setattr(
        "decision_seq.evaluation.episode_rows.make_actor",
        lambda *args: asked.append(args[-1]) or make_actor(*args),
    )
    Studio(opened, tmp_path, 1, Reporter()).film(scores)
    assert set(asked) == {torch.bfloat16}


def test_a_film_that_differs_from_the_evaluation_says_so(
    trained: Path, tmp_path: Path, no_opengl: None
) -> None:
    reporter = Lines()
    opened = open_checkpoint(trained, "cpu", targets=[40], episodes=1)
    studio = Studio(opened, tmp_path, 1, reporter)
    scores = opened.scores()
    obtained = np.array(scores.targets[0].returns)
    reporter.lines.clear()
    studio._compare(obtained, scores)
    assert reporter.lines == []
    studio._compare(obtained + 1, scores)
    assert "it is not the same to the last bit" in reporter.lines[0]


def test_a_failed_rollout_leaves_no_half_film(
    trained: Path, tmp_path: Path, no_opengl: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = 0

    def picture(env: Any) -> np.ndarray:
        nonlocal pictures
        pictures += 1
        if pictures > 30:
            raise KeyboardInterrupt
        return np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr(rendering, "outline", picture)
    with pytest.raises(KeyboardInterrupt):
        film(trained, tmp_path / "films")
    assert list((tmp_path / "films").iterdir()) == []


def test_evaluate_films_from_the_command_line(
    trained: Path, tmp_path: Path, no_opengl: None, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["evaluate", str(trained), "--episodes", "1", "--target", "40", "--json"]
    assert cli.main([*arguments, "--video", str(tmp_path / "films")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["targets"][0]["episodes"] == 1  # videos are no result
    assert "written: " in printed.err
    with Image.open(tmp_path / "films" / "target40-seed10000.png") as strip:
        assert strip.size == (2400, 960)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--video-episodes", "0"], "--video-episodes 0 asked for; films are made of 1 to 2"),
        (["--video-episodes", "3"], "--video-episodes 3 asked for; films are made of 1 to 2"),
        (["--env", "NoSuchEnv-v0"], "'NoSuchEnv-v0' is not registered"),
        (["--video", "FILE"], "cannot write films to"),
        (["--video", "FILE/under"], "cannot write films to"),
    ],
)
def test_what_cannot_be_filmed_is_one_line_before_any_rollout(
    more: list[str],
    named: str,
    trained: Path,
    tmp_path: Path,
    no_opengl: None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("decision_seq.evaluation.protocol.rollout_episodes", None)
    arguments = ["evaluate", str(trained), "--episodes", "2", "--video", "films", *more]
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("video: ")]
    assert printed.out == ""
    assert len(lines) == 1
    assert named in lines[0]


def test_what_no_outline_shows_is_refused_with_what_to_install(no_opengl: None) -> None:
    with pytest.raises(UserError, match="libegl1 or libosmesa6, or set MUJOCO_GL"):
        rendering.Camera("Pusher-v5")  # made of cylinders


def test_an_environment_without_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    from tests.conftest import OBSERVATION

    class Blind(gymnasium.Env):
        metadata = {"render_modes": []}  # noqa: RUF012
        observation_space = gymnasium.spaces.Box(-1, 1, (OBSERVATION,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

    monkeypatch.setitem(gymnasium.registry, "Blind-v0", gymnasium.envs.registration.EnvSpec(
        "Blind-v0", entry_point=Blind
    ))  # fmt: skip
    with pytest.raises(UserError, match="it renders no rgb_array"):
        rendering.Camera("Blind-v0")


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (NotImplementedError(), "NotImplementedError"),
        (RuntimeError("no\n display"), "no display"),
        (SystemExit(3), "3"),
        (None, "it renders no picture"),
        (np.zeros((0, 0, 3), np.uint8), "it renders no picture"),
        (np.zeros((8, 8), np.uint8), "it renders no picture"),
        (np.zeros((8, 8, 3)), "it renders float64 of 3 channels; uint8 of 3 are needed"),
        (np.zeros((8, 8, 4), np.uint8), "it renders uint8 of 4 channels; uint8 of 3 are needed"),
    ],
)
def test_what_cannot_be_filmed_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, drawn: Any, reason: str
) -> None:
    import gymnasium

    class Dark(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))
        render_mode = "rgb_array"

        def __init__(self, render_mode: str | None = None) -> None: ...

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.low, {}

        def render(self) -> Any:
            if isinstance(drawn, BaseException):
                raise drawn
            return drawn

    spec = gymnasium.envs.registration.EnvSpec("Dark-v0", entry_point=Dark)
    monkeypatch.setitem(gymnasium.registry, "Dark-v0", spec)
    with pytest.raises(UserError, match=f"^Dark-v0 cannot be filmed: {reason}$"):
        rendering.Camera("Dark-v0")


def test_pictures_of_a_film_have_one_size() -> None:
    camera = object.__new__(rendering.Camera)  # of no environment
    camera.env_id, camera.shape = "Odd-v0", None
    camera.picture = lambda size: np.zeros((size, 8, 3), np.uint8)
    camera.frame(8)
    with pytest.raises(UserError, match="its pictures change in size"):
        camera.frame(9)


@pytest.mark.parametrize("rate", ["fast", -1, float("nan"), [3]])
def test_a_rate_of_pictures_is_a_number(rate: Any) -> None:
    with pytest.raises(UserError, match="is no rate"):
        rendering._frames_per_second(rate, "Odd-v0")


@pytest.mark.parametrize("env_id", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Reacher2d-v0"])
def test_an_outline_shows_the_robot_and_follows_it(env_id: str, no_opengl: None) -> None:
    camera = rendering.Camera(env_id)
    env = camera.open()
    env.reset(seed=0)
    first = camera.picture(env)
    assert first.shape == (rendering.SIZE, rendering.SIZE, 3)
    assert first.dtype == np.uint8
    for _ in range(5):
        env.step(np.ones(env.action_space.shape))
    assert (camera.picture(env) != first).any()
    if env_id != "Reacher2d-v0":
        env.unwrapped.data.qpos[0] += 50  # far from the start
        import mujoco

        mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
    coloured = np.ptp(camera.picture(env).astype(int), axis=2) > 30
    assert coloured.sum() > 500
    rows, columns = np.nonzero(coloured)
    assert rows.min() > 0 and columns.min() > 0  # noqa: PT018
    assert max(rows.max(), columns.max()) < rendering.SIZE - 1
    env.close()


def test_opengl_draws_the_same_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this machine has OpenGL, the robot is filmed from its own camera."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    backend = rendering.opengl()
    if backend is None:
        pytest.skip("no OpenGL here")
    assert os.environ["MUJOCO_GL"] == backend
    camera = rendering.Camera("Hopper-v4")
    filmed, plain = camera.open(), make("Hopper-v4")
    assert filmed.unwrapped.mujoco_renderer.camera_id == 0
    observations = [env.reset(seed=3)[0] for env in (filmed, plain)]
    for step in range(4):
        picture = camera.picture(filmed)
        action = np.sin(np.arange(3) + step)
        observations = [env.step(action)[0] for env in (filmed, plain)]
        np.testing.assert_array_equal(*observations)
    assert picture.std() > 10
    for env in (filmed, plain):
        env.close()


def test_only_the_backend_that_was_named_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(rendering, "_draws", lambda backend: tried.append(backend))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.opengl() is None
    monkeypatch.delenv("MUJOCO_GL")
    assert rendering.opengl() is None
    assert tried == ["osmesa", *rendering.BACKENDS]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("shape", [(64, 48), (51, 37)])
def test_films_hold_their_frames(suffix: str, shape: tuple[int, int], tmp_path: Path) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"film{suffix}"
    writer = writers.open_writer(path, 25.0)
    for i in range(20):
        writer.write(np.full((*shape, 3), 12 * i, np.uint8))
    writer.close()
    frames = _gif(path) if suffix == ".gif" else _mp4(path)
    height, width = shape if suffix == ".gif" else (length // 2 * 2 for length in shape)
    assert len(frames) == 20
    for i, frame in enumerate(frames):
        assert frame.shape == (height, width, 3)
        assert abs(frame.mean() - 12 * i) < 6


def _gif(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        assert image.info["duration"] == 40
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
        return frames


def _mp4(path: Path) -> list[np.ndarray]:
    from imageio_ffmpeg import read_frames

    reader = read_frames(str(path))
    meta = next(reader)
    assert meta["fps"] == 25.0
    width, height = meta["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_without_ffmpeg_films_are_gifs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert writers.suffix() == ".gif"


def test_a_film_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with (
        pytest.raises(UserError, match=r"cannot write .*taken.png: Is a directory"),
        writers.partial(tmp_path / "taken.png") as path,
    ):
        path.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize("length", [1, 5, 8, 30, 100, 999])
def test_stills_are_spread_over_an_episode_of_any_length(length: int) -> None:
    stills = Stills()
    for step in range(length):
        stills.see(step, np.array(step), ended=False)
        assert len(stills.kept) <= KEPT
    stills.see(length, np.array(length), ended=True)
    chosen = stills.chosen()
    steps = [step for step, frame in chosen if step == frame]
    assert len(steps) == len(chosen) == min(STILLS, length + 1)
    assert (steps[0], steps[-1]) == (0, length)
    if length >= 30:
        gaps = np.diff(steps)
        assert gaps.max() <= 1.6 * length / (STILLS - 1)
        assert gaps.min() >= 0.4 * length / (STILLS - 1)


def test_the_strip_is_drawn_for_one_step_too(tmp_path: Path) -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    draw_strip(tmp_path / "a.png", "X-v0", 10.0, 3, [1.5], [(0, frame), (1, frame)])
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2400, 960)


def test_only_some_frames_of_a_fast_simulator_are_kept() -> None:
    class Written:
        count = 0

        def write(self, frame: np.ndarray) -> None:
            self.count += 1

        def close(self) -> None: ...

    written = Written()
    take = video.Take(written, 5, Caption(None))
    camera: Any = type("C", (), {"frame": staticmethod(lambda env: np.zeros((2, 2, 3)))})
    for step in range(13):
        take.see(camera, None, ended=step == 12)
        take.rewards.append(1.0)
    assert written.count == 4  # 0, 5, 10, and the last


def test_an_atari_game_is_filmed_in_colour_as_a_gif(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    camera = rendering.Camera("atari/Pong-v0")
    film = tmp_path / "pong.gif"
    writer = writers.open_writer(film, camera.fps)
    take = video.Take(writer, 1, Caption(3600.0))
    environments = video.FilmedEnvironments(camera, [take])
    environments.reset([3])
    for _ in range(30):
        environments.step(np.array([0]), np.array([2]))
    writer.close()
    environments.close()
    assert len(take.rewards) == 30
    with Image.open(film) as gif:
        assert (gif.size, gif.n_frames, gif.info["duration"]) == (
            (160, 226),
            31,
            60,
        )  # with the caption
        first = np.asarray(gif.convert("RGB")).astype(int)
        gif.seek(30)
        assert (np.asarray(gif.convert("RGB")) != first).any()
    assert np.ptp(first, axis=2).max() > 50  # in colour


def test_the_caption_stands_below_the_picture_and_fits() -> None:
    caption = Caption(3600.0)
    assert caption.text(1203.4, 412) == "return 1,203.4 of 3,600 - step 412"
    assert Caption(None).text(-0.5, 3) == "return -0.5 - step 3"
    for width in (96, 160, 481):
        picture = np.full((40, width, 3), 7, np.uint8)
        captions = [Caption(3600.0).under(picture, total, 1000) for total in (0.0, -12345.6)]
        first, last = captions
        assert first.shape == last.shape  # a film's pictures have one size
        assert (last[:40] == 7).all()
        line = last[40:].max(2)
        assert line.max() > 200
        assert line[:, :2].max() == line[:, -2:].max() == 0 or width == 96  # nothing is cut
