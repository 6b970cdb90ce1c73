import numpy as np
import pytest

from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.collected.behaviour import UniformPolicy
from decision_seq.datasets.collected.bundled import POLICIES, bundled, recipe, store_name
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.store import EpisodeStore
from decision_seq.types import UserError

SMALL = 300_000  # maximum bytes of a policy file


@pytest.mark.usefixtures("collect_here")
@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_data_are_as_said(name: str) -> None:
    """A collection's mean return is within its error of the recorded one."""
    found = recipe(name)
    for part in set(found.parts) - {"uniform"}:
        assert (POLICIES / part).stat().st_size <= SMALL
    count = 300 if found.size.unit == "episode" else 12 * len(found.parts)
    request = Request(size=Size(count, "episode"))
    store = open_dataset(f"bundled/{name}", request)
    assert store.header["source"]["kind"] == "bundled"
    assert "not D4RL's data" in store.source
    # Parts are weighted by steps, as a short episode takes few of a collection's steps.
    parts = np.split(np.arange(store.num_episodes), len(found.parts))
    rates = [1 / store.lengths[part].mean() for part in parts]
    means = [store.returns[part].mean() for part in parts]
    errors = [store.returns[part].std(ddof=1) / len(part) ** 0.5 for part in parts]
    weights = np.array(rates) / np.sum(rates)
    error = (weights**2 @ np.square(errors)) ** 0.5
    assert abs(weights @ means - found.return_mean) < 5 * error + 1e-6


def test_random_walks_are_as_many_as_their_name_says() -> None:
    """Both names give equal bytes; no simulator or network is involved."""
    assert recipe("key-to-door-10k").size == Size(10_000, "episode")
    store = open_dataset("key-to-door-1k")
    assert open_dataset("bundled/key-to-door-1k").path == store.path
    found = recipe("key-to-door-1k")
    assert (store.num_episodes, store.returns.sum()) == (found.episodes, 30) == (1000, 30)
    assert store.returns.std() == pytest.approx(found.return_std, abs=1e-4)
    assert store.checksum.startswith("b393696d5d63")
    assert (store.choices, store.header["max_episode_steps"]) == (4, 30)
    assert (store.header["family"], store.reference_scores) == ("key-to-door", (0.0, 1.0))
    assert store.terminated.all()


def test_a_store_is_made_anew_when_our_environment_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def names() -> list[str]:
        known = ("key-to-door-1k", "reacher2d-random", "hopper-random")
        return [store_name(name, Size(8), 0) for name in known]

    before = names()
    monkeypatch.setattr("decision_seq.datasets.collected.bundled.sha256", lambda file: file.name)
    assert [old == new for old, new in zip(before, names(), strict=True)] == [False, False, True]


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
    monkeypatch.setattr("decision_seq.datasets.collected.bundled.COLLECTOR", 99)
    second = path().path
    assert second != first
    monkeypatch.setattr("decision_seq.datasets.collected.bundled.version", lambda package: "9")
    third = path().path
    assert third not in (first, second)
    monkeypatch.setattr(
        "decision_seq.datasets.collected.bundled.UniformPolicy",
        lambda: UniformPolicy("another policy"),
    )
    assert path().path not in (first, second, third)


@pytest.mark.slow
def test_a_hundred_thousand_steps_of_halfcheetah_are_counted_out() -> None:
    """Two workers make exactly what was asked for."""
    store = open_dataset("bundled/halfcheetah-medium", Request(size=Size(100_000), workers=2))
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
