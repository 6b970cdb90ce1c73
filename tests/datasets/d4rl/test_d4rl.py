"""Tests of invariant 7 for D4RL's layouts: transitions in = transitions out."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from decision_seq.datasets import open_dataset, store_root
from decision_seq.datasets.d4rl.reader import published
from decision_seq.envs import facts_by_name
from decision_seq.types import UserError
from tests.conftest import make_episode

Write = Callable[..., Path]


def raw_returns(path: Path) -> np.ndarray:
    """Returns by a plain loop over the file, independent of the reader."""
    with h5py.File(path) as file:
        rewards = file["rewards"][:].reshape(-1)
        ends = file["terminals"][:].astype(bool).reshape(-1)
        if "timeouts" in file:
            ends |= file["timeouts"][:].astype(bool).reshape(-1)
    returns, running = [], 0.0
    for reward, end in zip(rewards, ends, strict=True):
        running += float(reward)
        if end:
            returns.append(running)
            running = 0.0
    return np.array(returns + ([] if ends[-1] else [running]))


LAYOUTS = {
    "v2": {},
    "without next_observations": {"drop": ["next_observations"]},
    "without timeouts": {"drop": ["timeouts"]},
    "float64 flags": {"change": {"terminals": lambda a: a.astype(float)}},
    "rewards (N, 1)": {"change": {"rewards": lambda a: a[:, None].astype(np.float64)}},
    "everything float64": {
        "change": {
            key: lambda a: a.astype(np.float64)
            for key in ("observations", "actions", "rewards", "terminals", "timeouts")
        }
    },
    "a tail without an end": {"tail": 13},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_nothing_is_lost_in_any_layout(write_d4rl: Write, layout: dict) -> None:
    path = write_d4rl(**layout)
    store = open_dataset(str(path))
    with h5py.File(path) as file:
        assert store.header["transitions_in"] == len(file["rewards"])
        assert store.num_transitions == len(file["rewards"])
        for name in ("observations", "actions"):
            np.testing.assert_array_equal(
                store.columns[name].array, file[name][:].astype(np.float32)
            )
        assert store.columns["rewards"].array.shape == (len(file["rewards"]),)
    np.testing.assert_allclose(store.returns, raw_returns(path), rtol=1e-6)


def test_ends_are_told_apart(write_d4rl: Write) -> None:
    store = open_dataset(str(write_d4rl((40, 25, 60), tail=13)))
    assert store.lengths.tolist() == [40, 25, 60, 13]
    assert store.terminated.tolist() == [True, False, True, False]
    assert store.truncated.tolist() == [False, True, False, False]


def test_an_episode_without_timeouts_ends_at_the_step_limit(write_d4rl: Write) -> None:
    """Without any flag, hopper's limit of 1000 steps cuts the stream exactly."""
    store = open_dataset(str(write_d4rl((2500, 40), drop=["timeouts"])))
    # 2500 steps end in a terminal; 40 more run into the end of the file
    assert store.lengths.tolist() == [1000, 1000, 500, 40]
    assert store.truncated.tolist() == [True, True, False, False]
    assert store.terminated.tolist() == [False, False, True, False]


def test_final_observations_are_the_files(write_d4rl: Write) -> None:
    path = write_d4rl((40, 25))
    store = open_dataset(str(path))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            store.columns["final_observations"].array, file["next_observations"][:][[39, 64]]
        )


def test_blocks_do_not_show(write_d4rl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decision_seq.datasets.d4rl.layout.BLOCK_ROWS", 7)
    path = write_d4rl((40, 5, 3, 1, 25, 60, 2), tail=3)
    store = open_dataset(str(path))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(store.columns["observations"].array, file["observations"][:])
    np.testing.assert_allclose(store.returns, raw_returns(path), rtol=1e-6)


def test_the_environment_is_found_by_name_and_never_by_sizes(write_d4rl: Write) -> None:
    """Any data of 11 and 3 numbers are not Hopper's."""
    by_name = open_dataset(str(write_d4rl(name="hopper_medium-v2.hdf5")))
    assert by_name.header["env_id"] == "Hopper-v4"
    unknown = open_dataset(str(write_d4rl(name="mine.hdf5")))
    task = [unknown.header[key] for key in ("env_id", "family", "max_episode_steps")]
    assert task == [None, None, None]
    assert unknown.reference_scores is None


def test_a_file_of_another_tasks_sizes_is_not_that_task(write_d4rl: Write) -> None:
    other = open_dataset(str(write_d4rl(name="walker2d_medium-v2.hdf5")))
    assert other.header["env_id"] is None


def test_a_store_is_made_once_and_again_when_the_file_changes(write_d4rl: Write) -> None:
    first = open_dataset(str(write_d4rl((40,))))
    stamp = (first.path / "header.json").stat().st_mtime_ns
    again = open_dataset(first.header["source"]["path"])
    assert (again.path / "header.json").stat().st_mtime_ns == stamp
    changed = open_dataset(str(write_d4rl((40, 9))))
    assert changed.path == first.path
    assert changed.num_episodes == 2


def test_a_damaged_store_is_rebuilt_from_its_file(write_d4rl: Write) -> None:
    path = write_d4rl((40,))
    first = open_dataset(str(path))
    (first.path / "actions.npy").unlink()
    assert open_dataset(str(path)).num_transitions == 40


def test_d4rls_own_cache_comes_before_the_bundled_collection(
    write_d4rl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_d4rl((40,))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(path.parent))
    store = open_dataset("hopper-medium")
    assert store.header["source"]["kind"] == "d4rl-hdf5"
    assert store.num_transitions == 40


def test_several_datasets_join_into_one(write_d4rl: Write) -> None:
    a = write_d4rl((40, 25), name="a.hdf5")
    b = write_d4rl((9,), name="b.hdf5", drop=["next_observations"])
    both = open_dataset(f"{a}+{b}")
    assert both.lengths.tolist() == [40, 25, 9]
    assert "a.hdf5" in both.source
    assert "b.hdf5" in both.source
    np.testing.assert_array_equal(
        both.columns["rewards"].array,
        np.concatenate([open_dataset(str(p)).columns["rewards"].array for p in (a, b)]),
    )
    assert open_dataset(f"{a}+{b}").path == both.path


def test_parts_of_different_tasks_do_not_join(write_d4rl: Write) -> None:
    """HalfCheetah and Walker2d have equal sizes but are different tasks."""

    def wide(name: str, sizes: tuple[int, int] = (17, 6)) -> str:
        change = {key: lambda a: np.zeros((len(a), sizes[0])) for key in ("observations",)}
        change["actions"] = lambda a: np.zeros((len(a), sizes[1]))
        return str(write_d4rl((9,), name, drop=["next_observations"], change=change))

    cheetah, walker = wide("halfcheetah_medium-v2.hdf5"), wide("walker2d_medium-v2.hdf5")
    with pytest.raises(UserError, match="differ in task"):
        open_dataset(f"{cheetah}+{walker}")
    with pytest.raises(UserError, match="differ in observation or action size"):
        open_dataset(f"{cheetah}+{write_d4rl((9,), 'hopper_medium-v2.hdf5')}")
    unknown = wide("mine.hdf5")
    assert open_dataset(f"{unknown}+{walker}").header["env_id"] == "Walker2d-v4"


def test_a_part_joined_twice_is_not_another_part(write_d4rl: Write) -> None:
    a, b = (str(write_d4rl((n,), f"{n}.hdf5")) for n in (9, 8))
    assert open_dataset(f"{a}+{a}").lengths.tolist() == [9, 9]
    assert open_dataset(f"{b}+{b}").lengths.tolist() == [8, 8]


def test_parts_of_other_precision_join(write_d4rl: Write) -> None:
    wide = write_d4rl((9,), "b.hdf5", change={"rewards": lambda a: a[:, None].astype(np.float64)})
    both = open_dataset(f"{write_d4rl((40,), 'a.hdf5')}+{wide}")
    assert both.lengths.tolist() == [40, 9]


def test_the_task_of_every_published_file_is_that_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4RL's antmaze files must not be taken for ant by their names."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    seen = set()
    for name, file in published().items():
        found = facts_by_name(name)
        assert found is not None
        family, facts = found
        if family in seen:
            continue
        seen.add(family)
        assert facts.sizes is not None
        episode = make_episode(5, 0, sizes=facts.sizes)
        with h5py.File(tmp_path / file.name, "w") as opened:
            opened["observations"], opened["actions"] = episode.observations[:-1], episode.actions
            opened["rewards"], opened["terminals"] = episode.rewards, np.arange(5) == 4
        header = open_dataset(f"d4rl/{name}").header
        assert (header["family"], header["env_id"]) == (family, facts.env_id), name
    assert {"antmaze-umaze", "antmaze-large", "kitchen", "maze2d-large-dense", "pen"} <= seen


def test_a_task_without_published_facts_opens(write_d4rl: Write) -> None:
    path = write_d4rl(
        name="mine.hdf5",
        change={key: lambda a: a[:, :5] for key in ("observations", "next_observations")},
    )
    header = open_dataset(str(path)).header
    assert (header["env_id"], header["family"]) == (None, None)


def _text(path: Path) -> None:
    path.write_text("observations, actions\n1, 2\n")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nan(array: np.ndarray) -> np.ndarray:
    array[17] = np.nan
    return array


BAD_FILES = {
    "missing": (dict(), Path.unlink, "does not exist"),
    "empty": (dict(), _empty, "is empty"),
    "text": (dict(), _text, "no HDF5 file"),
    "truncated": (dict(), _cut, "cut short"),
    "no actions": ({"drop": ["actions"]}, None, "has no 'actions'"),
    "no terminals": ({"drop": ["terminals"]}, None, "has no 'terminals'"),
    "short rewards": ({"change": {"rewards": lambda a: a[:-3]}}, None, "differ in length"),
    "NaN": ({"change": {"observations": _nan}}, None, "observations hold NaN"),
    "no rows": ({"change": dict.fromkeys(
        ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts"),
        lambda a: a[:0],
    )}, None, "holds no transition"),
    "flags of 2": ({"change": {"terminals": lambda a: a * 2.0}}, None, "other values than 0 and 1"),
    "text actions": ({"change": {"actions": lambda a: np.full(len(a), b"x")}}, None, "not numbers"),
    "flat observations": ({"change": {"observations": lambda a: a[:, 0]}}, None, "shape"),
    "rewards (N, 2)": (
        {"change": {"rewards": lambda a: np.stack([a, a], 1)}},
        None,
        "rewards has shape",
    ),
    "a number": ({"change": {"rewards": lambda a: 3.0}}, None, "single number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_line_and_leaves_nothing(write_d4rl: Write, case: tuple) -> None:
    layout, damage, named = case
    path = write_d4rl(**layout)
    if damage:
        damage(path)
    with pytest.raises(UserError) as caught:
        open_dataset(str(path))
    assert named in str(caught.value)
    assert "hopper_medium-v2.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)
    root = store_root()
    assert not root.exists() or list(root.iterdir()) == []


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(UserError, match="nearest known: hopper-medium"):
        open_dataset("hoper-medium")
    with pytest.raises(UserError, match=r"rail.eecs.berkeley.edu is not contacted"):
        open_dataset("d4rl/hopper-medium-v2")
    with pytest.raises(UserError, match="D4RL has no dataset called 'hopper-masterly'"):
        open_dataset("d4rl/hopper-masterly")
    with pytest.raises(UserError, match="no such file, folder or source"):
        open_dataset("somewhere/else")


def test_a_stores_folder_is_a_dataset(write_d4rl: Write) -> None:
    store = open_dataset(str(write_d4rl((40,))))
    assert open_dataset(str(store.path)).header == store.header
