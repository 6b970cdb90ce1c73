"""Tests of how a task is known: by a whole dataset's name and the sizes, never by less."""

from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.config import load
from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.d4rl.names import published
from decision_seq.datasets.inspection import inspect
from decision_seq.datasets.store.task_entries import task, task_note
from decision_seq.envs import FACTS, facts_by_name
from decision_seq.runs.resolve import Config, prepare
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines

HOPPER, UNKNOWN = (11, 3), (7, 2)
NAMES = {
    "hopper-medium-v2": "hopper",
    "hopper_medium-v2.hdf5": "hopper",
    "hopper-medium": "hopper",
    "hopper-medium-mine": "hopper",
    "hopper": None,
    "hopper-x": None,
    "hopper-mediumish": None,
    "grasshopper-v1": None,
    "grasshopper-medium-v2": None,
    "my-hopper-medium-v2": None,
    "walker2d-medium-v2": None,  # its sizes are others
    "robot": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_named_by_whole_words_at_the_beginning(name: str) -> None:
    assert task(name, *HOPPER)["family"] == NAMES[name]
    assert task(name, *UNKNOWN)["family"] is None


def test_every_published_and_bundled_name_is_known() -> None:
    bundled = ["reacher2d-medium-replay", "key-to-door-1k", "key-to-door-10k"]
    for name in [*published(), *bundled]:
        found = facts_by_name(name)
        assert found is not None
        assert task(name, *(found[1].sizes or (3, 4)))["family"] == found[0]


@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS.keys())
def test_sizes_never_name_a_task(facts: object) -> None:
    sizes = getattr(facts, "sizes", None) or UNKNOWN
    assert set(task("mine", *sizes).values()) == {None}
    assert task_note("mine", *sizes) is None


def test_how_the_task_is_known_is_said_at_every_opening(write_d4rl: Callable[..., Path]) -> None:
    said = "taken for Hopper-v4 by its name; another by --evaluation.env_id"
    path = write_d4rl(name="hopper-medium-mine.hdf5")
    for _ in range(2):
        reporter = Lines()
        store = open_dataset(str(path), Request(reporter=reporter))
        assert reporter.lines == [f"{path.name}: {said}"]
    assert said in [finding["detail"] for finding in inspect(store)["findings"]]


def test_a_bare_name_suggests_and_asks(write_d4rl: Callable[..., Path]) -> None:
    path, reporter = write_d4rl(name="hopper.hdf5"), Lines()
    with pytest.raises(UserError, match=r"no environment is known.*--evaluation\.env_id"):
        prepare(load(Config, {"dataset": str(path)}), reporter)
    assert "its name suggests hopper, which is not assumed" in reporter.lines[0]
    assert reporter.lines[0].endswith("--evaluation.env_id Hopper-v4")


@pytest.mark.parametrize(
    ("name", "env_id", "family"),
    [
        ("robot.hdf5", "Hopper-v4", "hopper"),
        ("hopper_medium-v2.hdf5", None, "hopper"),
        ("hopper_medium-v2.hdf5", "HalfCheetah-v4", "halfcheetah"),
        ("hopper_medium-v2.hdf5", "Hopper-v5", "hopper"),  # `environment_notes` says the difference
        ("robot.hdf5", "Pendulum-v1", None),
    ],
)
def test_reference_scores_follow_the_environment(
    name: str, env_id: str | None, family: str | None, write_d4rl: Callable[..., Path]
) -> None:
    tree = {"dataset": str(write_d4rl(name=name)), "evaluation": {"env_id": env_id}}
    scores = prepare(load(Config, tree), Reporter()).facts.reference_scores
    assert scores == (FACTS[family].reference_scores if family else None)
