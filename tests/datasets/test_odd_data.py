"""Tests of odd and hostile data: each is refused in one line, or read as what it is.

A row makes the input and says either words of the error, or what the store then holds.
"""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from gymnasium import spaces
from minari.serialization import serialize_space

from decision_seq.cli import main
from decision_seq.datasets import open_dataset, store_root
from decision_seq.datasets.action_forms import Form
from decision_seq.envs import ActionSpace, Environments, trust
from decision_seq.types import UserError
from tests.conftest import make_episode, write_store

Make = Callable[[Path], Path | str]


def columns(rows: int = 30, **changed: Any) -> dict[str, Any]:
    episode = make_episode(rows, 0)
    flat = {
        "observations": episode.observations[:-1],
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminals": np.arange(rows) == rows - 1,
    }
    return flat | changed


def npz(name: str = "x.npz", **changed: Any) -> Make:
    def make(folder: Path) -> Path:
        np.savez(folder / name, **columns(**changed))
        return folder / name

    return make


def pickled(*trajectories: dict[str, Any]) -> Make:
    def make(folder: Path) -> Path:
        (folder / "x.pkl").write_bytes(pickle.dumps(list(trajectories)))
        return folder / "x.pkl"

    return make


def twice(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the name
        for name, column in [*columns().items(), ("rewards", np.zeros(30))]:
            held = io.BytesIO()
            np.save(held, column)
            archive.writestr(f"{name}.npy", held.getvalue())
    return folder / "x.npz"


def beyond_any_index(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        for name in columns():
            held = io.BytesIO()
            header = {"descr": "<f4", "fortran_order": False, "shape": (2**70, 0)}
            np.lib.format.write_array_header_1_0(held, header)
            archive.writestr(f"{name}.npy", held.getvalue())
    return folder / "x.npz"


def torch_file(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    def make(folder: Path) -> Path:
        tensors = {name: torch.tensor(column) for name, column in columns().items()}
        torch.save([{**tensors, "rewards": change(tensors["rewards"])}], folder / "x.pt")
        return folder / "x.pt"

    return make


def parquets(*actions: list[Any]) -> Make:
    """A folder of files of one trajectory of 4 steps, each with its own actions."""

    def make(folder: Path) -> Path:
        (folder / "d").mkdir()
        for number, action in enumerate(actions):
            table = {
                "observations": [np.zeros((4, 2)).tolist()],
                "actions": [action],
                "rewards": [[1.0] * 4],
                "terminated": [True],
                "truncated": [False],
            }
            parquet.write_table(pa.table(table), folder / "d" / f"{number}.parquet")
        return folder / "d"

    return make


def lists(*rows: Any) -> pa.Array:
    return pa.array(list(rows), pa.list_(pa.float32()))


PAIRS = lists(*[[i, i] for i in range(5)])


def minari(suffix: str = "arrow", actions: Any = PAIRS, rows: int = 5, **entries: Any) -> Make:
    def make(folder: Path) -> Path:
        box = serialize_space(spaces.Box(-9, 9, (2,), np.float32))
        metadata = {
            "dataset_id": "toy/set-v0",
            "minari_version": "0.5.3",
            "data_format": suffix,
            "total_episodes": 1,
            "total_steps": max(rows - 1, 1),
            "observation_space": box,
            "action_space": box,
        }
        (folder / "m/data/0").mkdir(parents=True)
        (folder / "m/data/metadata.json").write_text(json.dumps(metadata | entries))
        table = pa.table(
            {
                "observations": entries.get("seen", PAIRS)[:rows]
                if rows <= 5
                else pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 2, "f4")), 2),
                "actions": actions[:rows],
                "rewards": pa.array([1.0] * rows),
                "terminations": pa.array([False] * rows),
                "truncations": pa.array([False] * rows),
            }
        )
        file = folder / f"m/data/0/data.{suffix}"
        if suffix == "parquet":
            parquet.write_table(table, file)
            return folder / "m"
        options = pa.ipc.IpcWriteOptions(compression="zstd" if rows > 5 else None)
        with (
            pa.OSFile(str(file), "wb") as sink,
            pa.ipc.new_file(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(table)
        return folder / "m"

    return make


def forged_offsets(*offsets: int) -> Make:
    def make(folder: Path) -> Path:
        path = minari()(folder) / "data/0/data.arrow"  # type: ignore[operator]
        sound = np.arange(0, 12, 2, dtype=np.int32).tobytes()
        assert sound in path.read_bytes()
        forged = np.array(offsets, np.int32).tobytes()
        path.write_bytes(path.read_bytes().replace(sound, forged))
        return folder / "m"

    return make


def wrappers(value: Any) -> Make:
    return minari(env_spec=json.dumps({"id": "Hopper-v4", "additional_wrappers": value}))


def store(
    folder: Path, name: str = "toy", actions: np.ndarray | None = None, **entries: Any
) -> Path:
    path = write_store(folder / name, (9, 4)).path
    header = json.loads((path / "header.json").read_text())
    header |= {"env_id": None, "family": None} | entries
    if actions is not None:
        np.save(path / "actions.npy", actions)
        facts = {"dtype": actions.dtype.str, "shape": list(actions.shape)}
        header["columns"]["actions"] |= facts
        header["statistics"] |= {"action_min": int(actions.min()), "action_max": int(actions.max())}
    (path / "header.json").write_text(json.dumps(header))
    return path


CHOICES = np.arange(13) % 3


def joined(first: int, second: int) -> Make:
    def make(folder: Path) -> str:
        starts = {"a": first, "b": second}.items()
        parts = [store(folder, k, CHOICES + n, choices=3, first_choice=n) for k, n in starts]
        return "+".join(map(str, parts))

    return make


FIVE = columns(5)
REFUSED: dict[str, tuple[Make, str]] = {
    "npz: a name twice": (twice, "rewards 2 times"),
    "npz: rows beyond any index": (beyond_any_index, "its shape is"),
    "npz: choices beyond int64": (npz(actions=np.full(30, 2**64 - 1, np.uint64)), "count them"),
    "npz: times": (npz(rewards=np.arange(30).astype("m8[s]")), "not numbers"),
    "npz: flags of NaN": (npz(terminals=np.full(30, np.nan)), "other values than 0 and 1"),
    "pickle: next observations of another width": (
        pickled({**FIVE, "next_observations": np.zeros((5, 4))}),
        "do not belong to",
    ),
    "pickle: an empty trajectory": (
        pickled(FIVE, {name: column[:0] for name, column in FIVE.items()}),
        "episode 1",
    ),
    "pickle: bytes for names": (
        pickled({name.encode(): column for name, column in FIVE.items()}),
        "has no 'observations'",
    ),
    "torch: stored with the other sign": (torch_file(torch._neg_view), "no plain array"),
    "torch: sparse": (torch_file(torch.Tensor.to_sparse), "no plain array"),
    "torch: bfloat16": (torch_file(torch.Tensor.bfloat16), "save it as float32"),
    "parquet: choices, then fractions": (parquets([0, 1, 2, 1], [0.5, 1, 2, 1]), "one type"),
    "parquet: choices, then vectors": (parquets([0, 1, 2, 1], [[0.5, 1]] * 4), "one form"),
    "minari: rows of other lengths": (
        minari(actions=lists([1, 1, 1], [2], [3, 3], [4, 4], [5, 5])),
        "not 2 numbers",
    ),
    "minari: a row that is null": (
        minari(actions=lists([1, 1, 1, 1], None, [3, 3], [4, 4], [5, 5])),
        "not 2 numbers",
    ),
    "minari: numbers for lists": (minari(actions=pa.array([1.0] * 5)), "lists are needed"),
    "minari: offsets beyond the numbers": (forged_offsets(0, 2, 4, 6, 8, 2**30), "is damaged"),
    "minari: offsets before the numbers": (forged_offsets(-(2**28), 2, 4, 6, 8, 10), "is damaged"),
    "minari: offsets a little beyond": (forged_offsets(4, 6, 8, 10, 12, 14), "is damaged"),
    "minari: no rows": (minari(rows=0), "is needed"),
    "minari: wrappers that are a number": (wrappers(5), "env_spec is malformed"),
    "minari: wrappers that are text": (wrappers(["a"]), "env_spec is malformed"),
    "store: bounds that cross": (
        lambda folder: store(folder, action_bounds=[[5] * 3, [-5] * 3]),
        "'action_bounds' is malformed",
    ),
    "join: choices from 1 and from 0": (joined(1, 0), "first choice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_data_are_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = REFUSED[name]
    path = make(tmp_path)
    assert main(["data", "inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
    assert captured.out == ""
    root = store_root()
    assert not root.exists() or list(root.iterdir()) == []


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_minari_file_that_unpacks_to_too_much_is_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decision_seq.datasets.d4rl.layout.BOMB_BYTES", 2**20)
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(600_000, "f4")), 2)
    path = minari(suffix, zeros, 300_000)(tmp_path)
    with pytest.raises(UserError, match="would unpack to"):
        open_dataset(str(path))


READ: dict[str, tuple[Make, dict[str, tuple[Any, str]]]] = {
    "npz: big endian": (
        npz(rewards=columns()["rewards"].astype(">f4")),
        {"rewards": (columns()["rewards"], "<f8")},
    ),
    "npz: one-hot, and a row of zeros": (
        npz(actions=np.eye(31, 2, dtype=int)[1:]),
        {"actions": (np.eye(31, 2)[1:], "<f4")},
    ),
    "npz: a name of 60 characters of four bytes": (
        npz("\N{BLACK SQUARE FOR STOP}" * 20 + "\N{GRINNING FACE}" * 45 + ".npz"),
        {},
    ),
    "pickle: two types of whole numbers": (
        pickled(
            {**FIVE, "actions": np.arange(5)}, {**FIVE, "actions": np.arange(5, dtype=np.uint64)}
        ),
        {"actions": (np.tile(np.arange(5), 2), "<i8")},
    ),
    "minari: plain": (minari(), {"actions": (np.arange(4)[:, None].repeat(2, 1), "<f4")}),
    "minari: plain parquet": (
        minari("parquet"),
        {"actions": (np.arange(4)[:, None].repeat(2, 1), "<f4")},
    ),
    "join: choices from 1": (joined(1, 1), {"actions": (np.tile(CHOICES + 1, 2), "<i8")}),
}


@pytest.mark.parametrize("name", READ)
def test_odd_data_are_read_as_what_they_are(name: str, tmp_path: Path) -> None:
    make, expected = READ[name]
    found = open_dataset(str(make(tmp_path)))
    for column, (values, kind) in expected.items():
        np.testing.assert_array_equal(found.columns[column].array, values)
        assert found.columns[column].dtype.str == kind


def test_a_joined_dataset_keeps_the_action_space(tmp_path: Path) -> None:
    space = open_dataset(str(joined(-1, -1)(tmp_path))).action_space
    assert space is not None
    assert (space.size, space.first_choice) == (3, -1)
    bounds = [[-9.0] * 3, [9.0] * 3]
    parts = [store(tmp_path, name, action_bounds=bounds) for name in ("a", "b")]
    assert open_dataset("+".join(map(str, parts))).header["action_bounds"] == bounds


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 10**5, ["a"]])
def test_a_sources_path_may_be_any_text(path: Any, tmp_path: Path) -> None:
    source = {"description": "x", "path": path}
    output = str(tmp_path / "o")
    folder = str(store(tmp_path, source=source))
    assert main(["data", "convert", folder, "--to", "store", "--output", output]) == 0


def test_returns_that_are_not_finite_are_not_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(tmp_path)
    np.save(path / "rewards.npy", np.full(13, np.inf))
    assert main(["data", "inspect", str(path), "--plot", str(tmp_path / "x.png")]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_choices_that_begin_elsewhere_are_in_their_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(tmp_path, actions=CHOICES + 1, choices=3, first_choice=1)
    assert main(["data", "inspect", str(path), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = [one for one in findings if one["check"] == "actions in their space"]
    assert (found["level"], found["detail"]) == ("ok", "discrete, 1 to 3 of 3 from 1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("make", [npz(), pickled(FIVE), parquets([0, 1, 2, 1])])
def test_what_may_not_be_read_is_not_called_damaged(make: Make, tmp_path: Path) -> None:
    path = Path(make(tmp_path))
    for file in [path] if path.is_file() else path.iterdir():
        file.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        open_dataset(str(path))


def test_a_form_refuses_other_blocks() -> None:
    for form in (Form.CHOICES, Form.COLUMN, Form.NUMBER):
        with pytest.raises(UserError, match="one form"):
            form.apply(np.zeros((3, 2)))


BOUNDS = {
    "all": (-np.inf, np.inf, -1, 1),
    "above": (0, np.inf, 0, 2),
    "far above": (5, np.inf, 5, 7),
    "above, around": (-9, np.inf, -1, 1),
    "below": (-np.inf, -2, -4, -2),
    "below, around": (-np.inf, 9, -1, 1),
    "both": (0, 100, 0, 100),
    "wide": (-1.7e308, 1.7e308, -np.finfo(np.float32).max, np.finfo(np.float32).max),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_behaviour_policy_stays_within_every_bound(name: str) -> None:
    low, high, least, most = BOUNDS[name]
    space = ActionSpace.of(spaces.Box(low, high, (1,), np.float64), "x")
    actions = space.from_unit(np.array([[-1], [0], [1]], np.float32))
    np.testing.assert_allclose(actions[[0, 2], 0], [least, most], rtol=1e-6)
    assert np.isfinite(actions).all()


def test_half_floats_reach_the_environment_as_such() -> None:
    space = ActionSpace.of(spaces.Box(-1, 1, (2,), np.float16), "x")
    assert space.to_environment(np.zeros(2, np.float32)).dtype == np.float16


def test_a_space_of_too_many_choices_is_refused() -> None:
    with pytest.raises(UserError, match="1,000,000,000 choices"):
        ActionSpace.of(spaces.Discrete(10**9), "x")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Ends(gymnasium.Env):
    """An environment whose flag of an end is of any kind."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    flag: Any = None

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        if isinstance(self.flag, Exception):
            raise self.flag
        return np.zeros(2, np.float32), 1.0, self.flag, False, {}


FLAGS: dict[str, tuple[Any, Any]] = {
    "bool": (True, True),
    "numpy": (np.bool_(True), True),
    "one": (np.array([True]), True),
    "number": (1, True),
    "nothing": (None, "true or false is needed"),
    "text": ("False", "true or false is needed"),
    "two": (np.array([True, False]), "true or false is needed"),
    "an error without words": (Unspeakable(), "Unspeakable"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_an_end_is_one_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, expected = FLAGS[name]
    monkeypatch.setattr(Ends, "flag", flag)
    gymnasium.register("OddEnds-v0", Ends, disable_env_checker=True, order_enforce=False)
    try:
        trust("OddEnds-v0")
        environments = Environments("OddEnds-v0", 2)
        environments.reset([1, 2])
        rows, actions = np.arange(2), np.zeros((2, 2), np.float32)
        if isinstance(expected, str):
            with pytest.raises(UserError, match=expected):
                environments.step(rows, actions)
        else:
            assert environments.step(rows, actions)[2].tolist() == [expected] * 2
    finally:
        del gymnasium.registry["OddEnds-v0"]
