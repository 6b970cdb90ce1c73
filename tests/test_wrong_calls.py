"""Wrong calls of the Python interface: one clear line each, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

import decision_seq as ds
from decision_seq.policies import PolicyConfig
from decision_seq.types import UserError
from tests.test_train import TINY

Call = Callable[[], Any]


def episodes(count: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(9, 3)),
            "actions": rng.uniform(-2, 2, (9, 1)),
            "rewards": rng.normal(size=9),
            "truncated": True,
        }
        for _ in range(count)
    ]


def tiny() -> Any:
    train = {**TINY["train"], "steps": 2, "trackers": []}
    return ds.load_config(
        "dt/gym", dataset="d", train=train, policy=TINY["policy"], **{"evaluation.episodes": 1}
    )


class Undecorated(PolicyConfig):
    """A policy's configuration without @dataclass."""

    width: int = 3


class Without(PolicyConfig):
    """One without fields of its own, which needs no decorator."""

    observations: ClassVar[tuple[str, ...]] = ("vector",)


CALLS: dict[str, tuple[Call, str]] = {
    "path": (lambda: ds.write_dataset(["x"], episodes()), "the dataset is of type list; give its"),
    "no iterable": (lambda: ds.write_dataset("x", None), "the episodes are of type NoneType; give"),
    "one episode": (lambda: ds.write_dataset("x", episodes()[0]), "the episodes are of type dict"),
    "no episode": (lambda: ds.write_dataset("x", []), "x: no episodes were given"),
    "an environment": (
        lambda: ds.write_dataset("x", episodes(), env_id=gymnasium.make("Pendulum-v1")),
        "the environment is of type TimeLimit; give the id that it is registered with",
    ),
    "a limit": (
        lambda: ds.write_dataset("x", episodes(), max_episode_steps="many"),
        "max_episode_steps 'many' is no whole number of at least 1",
    ),
    "one score": (
        lambda: ds.write_dataset("x", episodes(), reference_scores=(1.0,)),
        "reference_scores (1.0,): give two returns (random, expert)",
    ),
    "scores": (
        lambda: ds.write_dataset("x", episodes(), reference_scores=5),
        "reference_scores 5: give two returns (random, expert)",
    ),
    "mappings": (
        lambda: ds.write_dataset("x", [{**episodes()[0], "observations": [{"a": 1.0}] * 9}]),
        "episode 0: observations are mappings; name env_id",
    ),
    "open nothing": (lambda: ds.open_dataset(None), "the dataset is of type NoneType; give its"),
    "steps": (
        lambda: ds.open_dataset("bundled/hopper-medium", steps="many"),
        "open_dataset: steps 'many' is no whole number",
    ),
    "seed": (
        lambda: ds.open_dataset("bundled/hopper-medium", seed=True),
        "open_dataset: seed True is no whole number",
    ),
    "store": (
        lambda: ds.load_config("dt/gym", dataset=ds.open_dataset("d")),
        "give the dataset's name or its path, d, instead of the store",
    ),
    "recipe": (lambda: ds.load_config(5), "the recipe is of type int; give its name or path"),
    "no recipe": (lambda: ds.load_config("absent.yaml"), "absent.yaml does not exist"),
    "no config": (lambda: ds.train("dt/gym"), "the configuration is of type str; make one by load"),
    "resume": (
        lambda: ds.train(tiny(), "x", resume=True),
        "resume=True is none of 'never'",
    ),
    "output": (lambda: ds.train(tiny(), 5), "the output is of type int; give its name or path"),
    "twice": (
        lambda: ds.train(tiny(), "run"),
        "is not empty; add --resume to go on with it (in",
    ),
    "no run": (lambda: ds.evaluate("absent"), "absent does not exist; give a run's folder"),
    "run None": (lambda: ds.evaluate(None), "the run is of type NoneType; give its name or path"),
    "episode": (
        lambda: ds.evaluate("run", episode=3),
        "key episode; did you mean episodes?",
    ),
    "env": (lambda: ds.evaluate("run", env="Pendulum-v1"), "unknown key env; did you mean env_id?"),
    "reporter": (
        lambda: ds.evaluate("run", reporter=3),
        "unknown key reporter; there are",
    ),
    "episodes": (lambda: ds.evaluate("run", episodes=2.5), "episodes 2.5 is no whole number"),
    "temperature": (lambda: ds.evaluate("run", temperature="hot"), "'hot' is no number"),
    "precision": (lambda: ds.evaluate("run", precision="fp64"), "'fp64'"),
    "one target": (lambda: ds.evaluate("run", targets=3), "targets 3 is no list of numbers"),
    "target None": (lambda: ds.evaluate("run", targets=[None]), "[None] is no list of numbers"),
    "env object": (
        lambda: ds.evaluate("run", env_id=gymnasium.make("Pendulum-v1")),
        "the environment is of type TimeLimit",
    ),
    "agent": (lambda: ds.Agent.load(None), "the run is of type NoneType; give its name or path"),
    "agent's target": (lambda: ds.Agent.load("run", [3.0]), "target [3.0] is no return; give a"),
    "agent's precision": (lambda: ds.Agent.load("run", precision="fp64"), "'fp64'"),
    "agent's env": (lambda: ds.Agent.load("run", env="Pendulum-v1"), "env is of type str; give an"),
    "policy": (lambda: ds.load_policy(3), "the run is of type int; give its name or path"),
    "kind": (lambda: ds.register("polcy", "x"), "register('polcy'): the kinds are policy"),
    "name": (lambda: ds.register("policy", 3), "the name must be text"),
    "undecorated": (
        lambda: ds.register("policy", "undecorated")(Undecorated),
        "write @dataclass(frozen=True) between register and the class",
    ),
    "suffix": (
        lambda: ds.register("reader", "csv")(lambda *_: None),
        "register('reader', 'csv'): a suffix begins with a dot, .csv",
    ),
    "function": (lambda: ds.register("source", "mine")(5), "give a function"),
    "id": (lambda: ds.register("environment", "bad id")(dict), "Malformed environment ID: bad id"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset `d` and the run `run`."""
    path = tmp_path_factory.mktemp("calls")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HOME", str(path / "home"))
        ds.write_dataset("d", episodes(), env_id="Pendulum-v1")
        ds.train(tiny(), "run", progress=False)
    return path


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_call_is_one_line(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    call, message = CALLS[case]
    with pytest.raises(UserError) as failed:
        call()
    assert message in str(failed.value)
    assert "\n" not in str(failed.value)
    assert sorted(folder.iterdir()) == before


def test_what_the_calls_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs for their paths, paths for names, NumPy's numbers and arrays for numbers and lists."""
    monkeypatch.chdir(folder)
    Path("mine.yaml").write_text("train: {steps: 7}\n")
    made = ds.load_config(
        Path("mine.yaml"),
        dataset=Path("d"),
        **{"train.warmup_steps": np.int64(1), "evaluation.targets": np.array([1.0, 2.0])},
    )
    assert (made.dataset, made.train.steps, made.train.warmup_steps) == ("d", 7, 1)
    assert made.evaluation.targets == (1.0, 2.0)

    run = ds.train(tiny(), "run", resume="must", progress=False)
    assert run is not None
    scores = ds.evaluate(run, targets=np.float32([-1]), episodes=np.int64(2), progress=False)
    assert [(t.target, t.episodes) for t in scores.targets] == [(-1.0, 2)]
    mean, deviation = scores.targets[0].return_mean, scores.targets[0].return_std
    assert str(scores).startswith(f"target -1, return {mean:.5g} ± {deviation:.3g}, 95 % interval")
    assert str(scores).endswith(", 2 episodes")
    assert ds.Agent.load(run, np.float32(-3)).target == -3.0
    assert ds.load_policy(run).path == run.checkpoint
    assert ds.register("policy", "without")(Without) is Without
    PolicyConfig.get_known_choices().pop("without")


def test_a_run_without_rollouts_is_evaluated_with_the_usual_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decision_seq.evaluation.checkpoints import configured

    monkeypatch.chdir(folder)
    loaded = ds.load_policy("run")
    loaded.config["evaluation"]["episodes"] = 0
    assert configured(loaded, loaded.path).episodes == 50
    assert configured(loaded, loaded.path, episodes=3).episodes == 3


@dataclass(frozen=True)
class Decorated(PolicyConfig):
    """A configuration whose decorators are in the right order."""

    width: int = 3


def test_a_dataclass_is_registered() -> None:
    assert ds.register("policy", "decorated")(Decorated) is Decorated
    assert PolicyConfig.get_known_choices().pop("decorated") is Decorated
