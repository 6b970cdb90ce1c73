"""Tests of what environments do: odd rewards and observations, failures, episodes without end."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from decision_seq import envs
from decision_seq.cli import main
from decision_seq.datasets import open_dataset
from decision_seq.envs import Environments, making, named
from decision_seq.types import UserError

BOX = spaces.Box(-9, 9, (11,), np.float32)  # Hopper's sizes, so that its data fit
BAD_STEP = 3


class Odd(gymnasium.Env):
    """An environment of Hopper's sizes; `fault` tells what is wrong with it."""

    def __init__(self, fault: str = "", frames: int = 1) -> None:
        self.fault, self.t = fault, 0
        self.observation_space = BOX
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        if fault == "constructor exits":
            sys.exit(3)
        if fault == "no space":
            self.action_space = None  # type: ignore[assignment]
        if fault == "constructor":
            raise RuntimeError("licence server not reachable\nask the\tadministrator")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        if self.fault == "reset":
            raise KeyError("sensor_7")
        if self.fault == "space":
            self.observation_space = spaces.Box(-9, 9, (4,), np.float32)
            return np.zeros(4, np.float32), {}
        observation = np.zeros(11, np.float32)
        if self.fault == "first observation":
            observation[2] = np.nan
        return observation, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        bad = self.fault if self.t == BAD_STEP else ""
        if bad == "step":
            raise ZeroDivisionError("x / 0")
        if bad == "interrupt":
            raise KeyboardInterrupt
        if bad == "exit":
            sys.exit(0)
        if bad == "generator":
            raise GeneratorExit
        if bad == "speechless":
            raise Speechless
        if bad == "tuple":
            return 1, 2
        rewards = {
            "array": np.array([1.0]),
            "array of arrays": np.array([[1.0]]),
            "integer": 1,
            "two": np.array([1.0, 2.0]),
            "nan": float("nan"),
            "infinite": np.inf,
            "none": None,
            "text": "much",
            "number as text": "1.0",
            "without end": 10**400,
        }
        observation = np.full(11, float(self.t), np.float32)
        if bad == "observation":
            observation[5] = np.inf
        if bad == "shape":
            observation = observation[:1]
        seen: Any = [0.0, [1.0], 2.0] if bad == "ragged" else observation
        ended: Any = self.t >= 6 and self.fault != "endless"
        ended = ENDS.get(self.fault, ended) if bad else ended
        return seen, rewards.get(self.fault if bad else "", 1.0), ended, False, {}

    def close(self) -> None:
        if self.fault == "close":
            raise OSError("the port is busy")


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


ENDS = {
    "end as text": "no",
    "two ends": np.array([True, False]),
    "end nan": float("nan"),
    "end of zero": np.array([0]),
    "end of NumPy": np.bool_(False),
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Odd-v0", Odd, disable_env_checker=True)
    yield
    del gymnasium.registry["Odd-v0"]


def run(fault: str, count: int = 2, steps: int = 8, **more: Any) -> tuple[float, int]:
    """Run an episode in each of `count` environments -> the first one's return and length."""
    environments = Environments(f'Odd-v0?{{"fault": "{fault}"}}', count, **more)
    environments.reset([20 + i for i in range(count)])
    total, length = 0.0, 0
    while environments.running.any() and length < steps:
        rows = np.flatnonzero(environments.running)
        _, rewards, *_ = environments.step(rows, np.zeros((len(rows), 3)))
        assert rewards.shape == rows.shape
        assert rewards.dtype == np.float64
        total, length = total + rewards[0], length + 1
    return total, length


@pytest.mark.parametrize(
    "fault", ["", "array", "array of arrays", "integer", "end of zero", "end of NumPy"]
)
def test_a_reward_that_is_one_number_is_taken(fault: str) -> None:
    assert run(fault) == (6.0, 6)


FAULTS = {
    "two": "gives a reward of shape (2,) at step 3 of the episode of seed 20; a number is needed",
    "none": "gives the reward nan at step 3 of the episode of seed 20",
    "text": "gives a reward that is a str at step 3 of the episode of seed 20",
    "nan": "gives the reward nan at step 3 of the episode of seed 20",
    "infinite": "gives the reward inf at step 3 of the episode of seed 20",
    "observation": "gives an observation with NaN or infinity at step 3 of the episode of seed 20",
    "first observation": "with NaN or infinity at the reset of the episode of seed 20",
    "shape": "gives observations of shape (1,) at step 3 of the episode of seed 20; its space",
    "step": "fails at step 3 of the episode of seed 20: ZeroDivisionError: x / 0",
    "reset": "fails at the reset of the episode of seed 20: KeyError: 'sensor_7'",
    "constructor": "made: RuntimeError: licence server not reachable ask the administrator",
    "tuple": "fails at step 3 of the episode of seed 20: ValueError",
    "constructor exits": "made: SystemExit: 3",
    "no space": "action_space is of type NoneType, but a space of Gymnasium is needed",
    "space": "gives observations of shape (4,) at the reset of the episode of seed 20; its space",
    "ragged": "gives observations of different lengths at step 3 of the episode of seed 20",
    "exit": "fails at step 3 of the episode of seed 20: SystemExit: 0",
    "generator": "fails at step 3 of the episode of seed 20: GeneratorExit",
    "speechless": "fails at step 3 of the episode of seed 20: Speechless",
    "number as text": "gives a reward that is a str at step 3 of the episode of seed 20",
    "without end": "gives a reward that is a int at step 3 of the episode of seed 20",
    "end as text": "gives a str as terminated at step 3 of the episode of seed 20; true or false",
    "two ends": "gives a ndarray as terminated at step 3 of the episode of seed 20",
    "end nan": "gives a float as terminated at step 3 of the episode of seed 20",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_an_environment_does_wrong_is_one_line_with_episode_and_step(fault: str) -> None:
    with pytest.raises(UserError) as caught:
        run(fault)
    line = str(caught.value)
    assert FAULTS[fault] in line
    assert "Odd-v0" in line
    assert "\n" not in line


def test_an_environment_that_cannot_be_closed_is_named() -> None:
    environments = Environments('Odd-v0?{"fault": "close"}', 1)
    with pytest.raises(UserError, match="fails when it is closed: OSError: the port is busy"):
        environments.close()


def test_ctrl_c_in_an_environment_is_no_fault_of_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        run("interrupt")


def test_the_row_that_is_at_fault_is_named() -> None:
    environments = Environments('Odd-v0?{"fault": "nan"}', 3)
    environments.reset([5, 6, 7])
    for rows in ([0], [0], [1], [1]):
        environments.step(np.array(rows), np.zeros((1, 3)))
    with pytest.raises(UserError, match="at step 3 of the episode of seed 6"):
        environments.step(np.array([2, 1]), np.zeros((2, 3)))


def test_an_episode_without_end_is_truncated_at_the_limit() -> None:
    assert run("endless", steps=8) == (8.0, 8)
    assert run("endless", step_limit=4) == (4.0, 4)
    assert run("", step_limit=100) == (6.0, 6)
    assert run("endless", step_limit=4, delayed=True) == (4.0, 4)
    environments = Environments("Hopper-v4", 1, step_limit=7)
    assert environments.max_episode_steps == 7
    assert Environments("Hopper-v4", 1, step_limit=7000).max_episode_steps == 1000
    assert Environments("Odd-v0", 1).max_episode_steps is None


SMALL = ["--train.steps", "2", "--policy.backbone.width", "8", "--policy.backbone.layers", "1"]
SMALL += ["--train.batch_size", "4", "--evaluation.workers", "1", "--evaluation.episodes", "2"]


def test_a_run_in_an_environment_without_a_limit_ends_and_says_so(
    write_d4rl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    endless = ["--evaluation.env_id", """'Odd-v0?{"fault": "endless"}'"""]
    train = ["train", "--dataset", str(write_d4rl(name="mine.hdf5")), "--output", str(out)]
    assert main([*train, *SMALL, *endless]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("has no time limit") == 1
    assert "truncated after 60 steps" in printed.err
    assert "episodes are truncated after 60 steps" in printed.out  # a note of the scores too
    assert main(["evaluate", str(out), "--workers", "1", "--max-episode-steps", "5"]) == 0
    printed = capsys.readouterr()
    assert "has no time limit" not in printed.err
    assert "episodes are truncated after 5 steps" in printed.out
    assert main(["evaluate", str(out), "--max-episode-steps", "0"]) == 2
    assert "max_episode_steps 0 must be at least 1" in capsys.readouterr().err


def test_a_fault_in_the_evaluation_leaves_no_scores(
    write_d4rl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train = ["train", "--dataset", str(write_d4rl(name="mine.hdf5")), "--output", str(out)]
    fault = ["--evaluation.env_id", """'Odd-v0?{"fault": "nan"}'"""]
    assert main([*train, *SMALL, *fault]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "gives the reward nan at step 3 of the episode of seed 10000" in last
    assert not (out / "scores.json").exists()


@pytest.mark.parametrize("asked", ["before", "after", "variable", "not"])
def test_the_traceback_is_there_for_those_who_ask(
    asked: str,
    make_checkpoint: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ["evaluate", str(make_checkpoint()), "--env", 'Odd-v0?{"fault": "constructor"}']
    if asked == "variable":
        monkeypatch.setenv("DECISION_SEQ_DEBUG", "1")
    before, after = (["--debug"] if asked == place else [] for place in ("before", "after"))
    assert main([*before, *line, *after]) == 2
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == (asked != "not")
    assert ("RuntimeError: licence server not reachable\n" in printed) == (asked != "not")
    assert printed.splitlines()[-1].startswith("decision-seq: environment 'Odd-v0?")


def test_a_collection_in_a_failing_environment_is_one_line(
    collect_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect = ["data", "collect", "--policy", "uniform", "--episodes", "2", "--workers", "1"]
    out = ["--output", str(tmp_path / "out")]
    assert main([*collect, "--env", 'Odd-v0?{"fault": "step"}', *out]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "fails at step 3 of the episode of seed" in last
    assert "ZeroDivisionError" in last
    assert not (tmp_path / "out").exists()


def test_a_collection_in_an_environment_without_end_ends(
    collect_here: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("decision_seq.datasets.collected.collection.MOST_STEPS", 9)
    collect = ["data", "collect", "--policy", "uniform", "--episodes", "2", "--workers", "1"]
    out = ["--output", str(tmp_path / "out")]
    assert main([*collect, "--env", 'Odd-v0?{"fault": "endless"}', *out]) == 0
    assert "truncated after 9 steps" in capsys.readouterr().err
    store = open_dataset(str(tmp_path / "out"))
    assert store.lengths.tolist() == [9, 9]
    assert store.truncated.all()


def test_a_bad_variable_of_mujoco_is_one_line(tmp_path: Path) -> None:
    code = "from decision_seq.envs import make; make('CartPole-v1')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert "UserError: MuJoCo cannot be loaded: RuntimeError: invalid value" in last


class Taking(gymnasium.Env):
    """An environment with keyword arguments of every kind."""

    def __init__(self, number: Any = 0, text: str = "", more: Any = None, **rest: Any) -> None:
        self.observation_space, self.action_space, self.given = BOX, spaces.Discrete(2), number


PLAIN = ("1", "-2.5", "true", "null", '"sparse"', "[[1, 0], [0, 1]]", '{"a": [1, "b"]}', "10000")
BEYOND = {
    "1000000000": "beyond 10,000",
    "1e300": "beyond 1,000,000",
    "NaN": "beyond",
    "Infinity": "beyond",
    '"/etc/passwd"': "names a file",
    '"../secret"': "names a file",
    '"os:system"': "names a file",
    '"~/x"': "names a file",
    f'"{"x" * 65}"': "is long",
    "[[[[[[1]]]]]]": "nested too deeply",
    f"[{'1,' * 5000}1]": "more than 4,096 values",
    '{"a": {"b": "/x"}}': "names a file",
}


@pytest.fixture
def taking() -> Iterator[None]:
    gymnasium.register("Taking-v0", Taking, disable_env_checker=True)
    yield
    del gymnasium.registry["Taking-v0"]


@pytest.mark.parametrize("value", PLAIN)
def test_plain_keyword_arguments_of_data_are_passed(value: str, taking: None) -> None:
    envs.make(f'Taking-v0?{{"number": {value}}}').close()


@pytest.mark.parametrize("value", BEYOND)
def test_other_keyword_arguments_of_data_are_refused_unless_the_user_gives_them(
    value: str, taking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "_trusted", set())
    env_id = f'Taking-v0?{{"number": {value}}}'
    with pytest.raises(UserError, match=BEYOND[value]) as caught:
        envs.make(env_id)
    assert "name the environment yourself" in str(caught.value)
    assert "\n" not in str(caught.value)
    envs.trust(env_id)
    envs.make(env_id).close()


@pytest.mark.parametrize("key", ["unknown", "self", "rest", "disable_env_checker", "id"])
def test_keyword_arguments_that_the_environment_does_not_declare_are_refused(
    key: str, taking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "_trusted", set())
    with pytest.raises(UserError, match=f"takes no '{key}', only"):
        envs.make(f'Taking-v0?{{"{key}": 1}}')


@pytest.mark.parametrize("steps", ["0", "-1", "1000000000", "1.5", "true", '"5"'])
def test_a_limit_of_steps_in_an_id_of_data_is_bounded(
    steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "_trusted", set())
    with pytest.raises(UserError, match="must be a whole number from 1 to 1,000,000"):
        envs.make(f'Hopper-v4?{{"max_episode_steps": {steps}}}')


@pytest.mark.parametrize("module", ["json", "os.path", "__main__", "nowhere", "..", "a b", ""])
def test_a_module_that_data_name_is_not_used_even_if_it_is_loaded(module: str) -> None:
    with pytest.raises(UserError, match=r"never for one named by data|not registered"):
        envs.make(f"{module}:Hoper-v4" if not module else f"{module}:Hopper-v4")


@pytest.mark.parametrize("module", ["..", "a b", "1x", "x..y", ".x", "x:y"])
def test_what_is_no_modules_name_is_one_line(module: str) -> None:
    with pytest.raises(UserError, match="is no module's name"):
        envs.trust(f"{module}:Hopper-v4")


MINE = """
import gymnasium
from neighbour import LENGTH
entry = "gymnasium.envs.classic_control:CartPoleEnv"
gymnasium.register("Mine-v0", entry, max_episode_steps=LENGTH)
"""


def test_a_module_beside_the_current_folder_is_found_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_module.py").write_text(MINE)
    (tmp_path / "neighbour.py").write_text("LENGTH = 7")
    (tmp_path / "broken_module.py").write_text("raise OSError('no\\nlicence')")
    monkeypatch.chdir(tmp_path)
    path = [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", path)
    with pytest.raises(UserError, match="cannot be imported: OSError: no licence"):
        envs.trust("broken_module:Mine-v0")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        envs.trust("absent_module:Mine-v0")
    assert sys.path == path
    envs.trust("math:Mine-v0")
    assert sys.path == path
    envs.trust("my_module:Mine-v0")
    assert Environments("my_module:Mine-v0", 1).max_episode_steps == 7
    del gymnasium.registry["Mine-v0"]


def test_make_asks_for_the_spaces_of_an_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert making.spaces("FrozenLake-v1").observation_space == spaces.Discrete(16)
