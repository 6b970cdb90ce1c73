import time

import numpy as np
import pytest

from decision_seq.data import Request, open_dataset
from decision_seq.data.behaviour import UniformPolicy
from decision_seq.data.bundled import POLICIES, bundled, recipe
from decision_seq.data.collection import Size
from decision_seq.data.store import EpisodeStore
from decision_seq.types import UserError

SMALL = 300_000  # bytes of a policy file


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_data_are_as_said(name: str) -> None:
    """A collection's mean return lies within its error of the one on record."""
    found = recipe(name)
    for part in set(found.parts) - {"uniform"}:
        assert (POLICIES / part).stat().st_size <= SMALL
    request = Request(size=Size(12 * len(found.parts), "episode"))
    store = open_dataset(f"bundled/{name}", request)
    assert store.header["source"]["kind"] == "bundled"
    assert "not D4RL's data" in store.source
    # A short episode takes few of a collection's steps, so the parts are weighed by theirs.
    parts = np.split(np.arange(store.num_episodes), len(found.parts))
    rates = [1 / store.lengths[part].mean() for part in parts]
    means = [store.returns[part].mean() for part in parts]
    errors = [store.returns[part].std(ddof=1) / len(part) ** 0.5 for part in parts]
    weights = np.array(rates) / np.sum(rates)
    error = (weights**2 @ np.square(errors)) ** 0.5
    assert abs(weights @ means - found.return_mean) < 5 * error + 1e-6


def test_a_bundled_store_is_made_once_and_again_when_damaged() -> None:
    request = Request(size=Size(8, "episode"))
    first = open_dataset("hopper-random", request)
    stamp = (first.path / "header.json").stat().st_mtime_ns
    again = open_dataset("hopper-random-v2", request)
    assert (again.path / "header.json").stat().st_mtime_ns == stamp
    (first.path / "actions.npy").unlink()
    assert open_dataset("hopper-random", request).checksum == first.checksum


def test_another_policy_or_simulator_means_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(size=Size(8, "episode"))

    def path() -> EpisodeStore:
        return open_dataset("bundled/hopper-random", request)

    first = path().path
    monkeypatch.setattr("decision_seq.data.bundled.COLLECTOR", 99)
    second = path().path
    assert second != first
    monkeypatch.setattr("decision_seq.data.bundled.version", lambda package: "9")
    third = path().path
    assert third not in (first, second)
    monkeypatch.setattr(
        "decision_seq.data.bundled.UniformPolicy", lambda: UniformPolicy("another policy")
    )
    assert path().path not in (first, second, third)


@pytest.mark.slow
def test_a_hundred_thousand_steps_of_halfcheetah_take_less_than_a_minute() -> None:
    """On two cores that do nothing else."""
    started = time.perf_counter()
    store = open_dataset("bundled/halfcheetah-medium", Request(size=Size(100_000), workers=2))
    assert time.perf_counter() - started < 60
    assert store.num_transitions == 100_000


def test_a_folder_that_lost_its_header_is_made_again() -> None:
    request = Request(size=Size(8, "episode"))
    first = open_dataset("bundled/hopper-random", request)
    (first.path / "header.json").unlink()
    assert open_dataset("bundled/hopper-random", request).checksum == first.checksum


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="bundled/hopper-masterly does not exist"):
        open_dataset("bundled/hopper-masterly")
    with pytest.raises(UserError, match="does not exist"):
        open_dataset("bundled/../../secrets")
