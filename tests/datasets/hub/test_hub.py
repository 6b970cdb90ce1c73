"""Tests of Parquet trajectories: invariant 7, round trips, `dones`, fetching, damage."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.fetching.download import CONNECT_SECONDS
from decision_seq.datasets.hub import reader as hub
from decision_seq.datasets.hub.export import write
from decision_seq.datasets.hub.remote import open_remote
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.types import Episode, Reporter, UserError
from tests.conftest import make_episode
from tests.loopback import Fault, Loopback, cut, hang, no_range, point_hub_at, short, status
from tests.waiting import LIMIT

Rows = list[dict[str, Any]]


def rows_of(lengths: Sequence[int] = (30, 1000, 7), last: Sequence[bool] | None = None) -> Rows:
    """Rows as in the Decision Transformer sets; `last` is the last of an episode's dones."""
    rows = []
    for index, length in enumerate(lengths):
        episode = make_episode(length, index, final=False)
        done = last[index] if last else index % 2 == 0
        rows.append(
            {
                "observations": episode.observations.tolist(),
                "actions": episode.actions.tolist(),
                "rewards": episode.rewards.tolist(),
                "dones": [False] * (length - 1) + [done],
            }
        )
    return rows


def parquet(path: Path, rows: Rows, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., EpisodeStore]:
    return lambda path, reporter=None: hub.read(path, tmp_path / "read" / "store", reporter)


@pytest.mark.parametrize("group", [1, 2, 100])
def test_nothing_is_lost(tmp_path: Path, read: Callable, group: int) -> None:
    path = parquet(tmp_path / "hopper-medium-v2.parquet", rows_of(), row_group_size=group)
    store = read(path)
    table = pq.read_table(path).to_pylist()
    assert store.header["transitions_in"] == store.num_transitions == 1037
    for kept, given in zip(store.episodes(), table, strict=True):
        for name in ("observations", "actions"):
            raw = np.array(given[name], np.float32)
            np.testing.assert_array_equal(getattr(kept, name), raw)
        np.testing.assert_array_equal(kept.rewards, np.array(given["rewards"]))
    np.testing.assert_allclose(store.returns, [sum(row["rewards"]) for row in table], rtol=1e-12)
    assert (store.header["env_id"], store.header["family"]) == ("Hopper-v4", "hopper")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path, read: Callable) -> None:
    for name, length in (("b/1", 5), ("a/2", 4), ("a/10", 3)):
        parquet(tmp_path / "set" / f"{name}.parquet", rows_of([length]))
    assert read(tmp_path / "set").lengths.tolist() == [3, 4, 5]


def test_batches_do_not_show(
    tmp_path: Path, read: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "set.parquet", rows_of(range(1, 12)))
    whole = read(path).columns["observations"].array.copy()
    monkeypatch.setattr("decision_seq.datasets.hub.reader.ROWS_AT_ONCE", 4)
    np.testing.assert_array_equal(read(path).columns["observations"].array, whole)


def test_what_dones_says(tmp_path: Path, read: Callable) -> None:
    """Hopper's limit is 1000: an episode of that length is truncated, whatever its last done."""
    rows = rows_of([1000, 1000, 30, 30], [True, False, True, False])
    store = read(parquet(tmp_path / "hopper-medium-v2.parquet", rows))
    assert store.truncated.tolist() == [True, True, False, False]
    assert store.terminated.tolist() == [False, False, True, False]
    assert store.header["has_timeouts"] is False
    narrow = [row | {"observations": [o[:5] for o in row["observations"]]} for row in rows]
    unknown = read(parquet(tmp_path / "mine.parquet", narrow))
    assert unknown.terminated.tolist() == [True, False, True, False]
    assert not unknown.truncated.any()
    assert unknown.header["env_id"] is None


def test_the_scalars_say_more_than_dones(tmp_path: Path, read: Callable) -> None:
    rows = rows_of([1000, 30])
    rows[0] |= {"terminated": True, "truncated": False, "final_observation": [1.0] * 11}
    rows[1] |= {"terminated": False, "truncated": True, "final_observation": [2.0] * 11}
    store = read(parquet(tmp_path / "set.parquet", rows))
    assert store.terminated.tolist() == [True, False]
    assert store.truncated.tolist() == [False, True]
    assert store.columns["final_observations"].array[:, 0].tolist() == [1.0, 2.0]


def test_other_columns_are_named(tmp_path: Path, read: Callable) -> None:
    lines: list[str] = []
    reporter = Reporter()
    reporter.say = lines.append  # type: ignore[method-assign]
    rows = [row | {"note": "x", "id": 3} for row in rows_of()]
    store = open_dataset(str(parquet(tmp_path / "set.parquet", rows)), Request(reporter=reporter))
    assert store.header["source"]["ignored_columns"] == ["id", "note"]
    assert lines == ["set.parquet: columns not read: id, note"]


KINDS = {
    "large lists": pa.large_list(pa.large_list(pa.float64())),
    "fixed lists": pa.list_(pa.list_(pa.float32(), 11)),
    "half precision": pa.list_(pa.list_(pa.float16())),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_any_kind_of_list(tmp_path: Path, read: Callable, kind: pa.DataType) -> None:
    table = pa.Table.from_pylist(rows_of([5, 3, 8]))
    values = [
        [np.asarray(v, kind.value_type.value_type.to_pandas_dtype()) for v in row.as_py()]
        for row in table["observations"]
    ]
    column = pa.array([[v.tolist() for v in row] for row in values], kind)
    pq.write_table(table.set_column(0, "observations", column), tmp_path / "set.parquet")
    expected = np.concatenate(values).astype(np.float32)
    np.testing.assert_array_equal(
        read(tmp_path / "set.parquet").columns["observations"].array, expected
    )


def stored(folder: Path, episodes: Sequence[Episode], **facts: Any) -> EpisodeStore:
    usual = {"env_id": "Hopper-v4", "family": "hopper", "max_episode_steps": 1000}
    with StoreWriter(folder) as writer:
        for episode in episodes:
            writer.append(episode)
        return writer.finish(
            "hopper-medium-v2",
            {"kind": "test", "description": "made here"},
            **{**usual, **facts},
            transitions_in=sum(writer.lengths),
            has_timeouts=True,
        )


def precise(episode: Episode) -> Episode:
    """An episode with rewards beyond single precision, and without an end."""
    rewards = episode.rewards.astype(np.float64) + 1e-12
    return replace(episode, rewards=rewards, truncated=False)


def discrete(episode: Episode) -> Episode:
    return replace(episode, actions=np.arange(len(episode)) % 4)


def frames(episode: Episode) -> Episode:
    shape = (len(episode.observations), 4, 6)
    return replace(episode, observations=np.random.default_rng(0).integers(0, 255, shape, np.uint8))


STORES = {
    "with final observations": [make_episode(n, n, n % 2 == 0) for n in (30, 7, 1)],
    "without final observations": [make_episode(n, n, final=False) for n in (30, 7, 1)],
    "discrete": [discrete(make_episode(n, n)) for n in (9, 5)],
    "double rewards, no end": [precise(make_episode(n, n, False)) for n in (9, 5)],
    "frames": [frames(make_episode(n, n)) for n in (5, 3)],
}


@pytest.mark.parametrize("episodes", STORES.values(), ids=STORES.keys())
@pytest.mark.parametrize("group_bytes", [600, 16 << 20])
def test_a_store_comes_back_bit_for_bit(
    episodes: list[Episode],
    group_bytes: int,
    tmp_path: Path,
    read: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("decision_seq.datasets.hub.export.ROW_GROUP_BYTES", group_bytes)
    monkeypatch.setattr("decision_seq.datasets.hub.export.SHARD_BYTES", 2 * group_bytes)
    facts = {"env_id": None, "family": "kitchen", "max_episode_steps": 77}
    store = stored(tmp_path / "store", episodes, **facts)
    write(store, tmp_path / "out")
    back = read(tmp_path / "out")
    assert back.columns.keys() == store.columns.keys()
    for name, column in store.columns.items():
        assert column.dtype == back.columns[name].dtype
        np.testing.assert_array_equal(column.array, back.columns[name].array)
    for name in ("offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(store, name), getattr(back, name))
    for key in ("name", "statistics", "transitions_in", *facts):
        assert back.header[key] == store.header[key]
    assert back.header["source"]["origin"] == store.header["source"]
    assert list(tmp_path.glob(".partial-*")) == []


def test_datasets_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr("decision_seq.datasets.hub.export.ROW_GROUP_BYTES", 1500)
    monkeypatch.setattr("decision_seq.datasets.hub.export.SHARD_BYTES", 3000)
    store = stored(tmp_path / "store", [make_episode(n, n, n % 2 == 0) for n in (30, 7, 60, 1)])
    write(store, tmp_path / "out")
    shards = sorted(str(path) for path in (tmp_path / "out").rglob("*.parquet"))
    assert len(shards) > 1
    cache = str(tmp_path / "cache")
    by_files = datasets.load_dataset("parquet", data_files=shards, cache_dir=cache)["train"]
    by_folder = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)["train"]
    for loaded in (by_files, by_folder):
        for row, episode in zip(loaded.with_format("numpy"), store.episodes(), strict=True):
            steps = len(episode)
            np.testing.assert_array_equal(row["observations"], episode.observations[:steps])
            np.testing.assert_array_equal(row["final_observation"], episode.observations[steps])
            np.testing.assert_array_equal(row["actions"], episode.actions)
            np.testing.assert_array_equal(row["rewards"], episode.rewards)
            assert (row["terminated"], row["truncated"]) == (episode.terminated, episode.truncated)


def test_writing_overwrites_nothing(store: EpisodeStore, tmp_path: Path) -> None:
    write(store, tmp_path / "out")
    with pytest.raises(UserError, match="out exists; delete it"):
        write(store, tmp_path / "out")


def changed(index: int = 1, **columns: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Damage that applies functions to columns of one row."""

    def damage(path: Path) -> None:
        rows = rows_of((30, 9, 7))
        rows[index] |= {name: function(rows[index][name]) for name, function in columns.items()}
        parquet(path, rows)

    return damage


def everywhere(**columns: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def damage(path: Path) -> None:
        parquet(
            path, [row | {k: f(row[k]) for k, f in columns.items()} for row in rows_of((30, 9))]
        )

    return damage


def without(name: str) -> Callable[[Path], Any]:
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([name]), path)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scramble(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[40:2000] = b"\xff" * 1960
    path.write_bytes(body)


def _twice(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("rewards", table["rewards"]), path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("a,b\n1,2\n"), "is no Parquet file"),
    "half a file": (_half, "cut short"),
    "scrambled": (_scramble, "is damaged"),
    "an empty folder": (lambda p: (p.unlink(), p.mkdir()), "holds no .parquet file"),
    "no rows": (lambda p: pq.write_table(pq.read_table(p)[:0], p), "holds no transition"),
    "no observations": (without("observations"), "has no column 'observations'"),
    "no actions": (without("actions"), "has no column 'actions'"),
    "no ends": (without("dones"), "has neither 'dones' nor"),
    "a column twice": (_twice, "the column 'rewards' twice"),
    "ragged observations": (
        changed(observations=lambda o: [*o[:-1], o[-1][:4]]),
        "observations has vectors of 4 to 11 numbers",
    ),
    "one row narrower": (
        changed(observations=lambda o: [v[:4] for v in o]),
        "observations has vectors of 4 to 11 numbers",
    ),
    "empty vectors": (everywhere(observations=lambda o: [[] for _ in o]), "more than 0"),
    "fewer rewards": (changed(rewards=lambda r: r[:-2]), "do not belong together"),
    "fewer dones": (changed(dones=lambda d: d[:-2]), "7 dones of 9 rewards"),
    "NaN": (changed(rewards=lambda r: [*r[:3], np.nan, *r[4:]]), "episode 1: rewards hold NaN"),
    "a null": (changed(rewards=lambda r: [*r[:3], None, *r[4:]]), "lacks 1 values"),
    "a null row": (changed(actions=lambda a: None), "lacks 1 values"),
    "two trajectories a row": (
        changed(dones=lambda d: [*d[:3], True, *d[4:]]),
        "dones is set at step 3 of 9",
    ),
    "no steps": (
        changed(**dict.fromkeys(("observations", "actions", "rewards", "dones"), lambda c: [])),
        "episode 1",
    ),
    "text rewards": (everywhere(rewards=lambda r: ["x" for _ in r]), "holds string, not numbers"),
    "objects": (everywhere(observations=lambda o: [[{"a": 1}] for _ in o]), "not numbers"),
    "flat observations": (everywhere(observations=lambda o: o[0]), "lists 2 deep is needed"),
    "frames": (everywhere(observations=lambda o: [[v] for v in o]), "lists 2 deep is needed"),
    "one reward": (everywhere(rewards=lambda r: r[0]), "holds one step a row"),
    "dones of numbers": (everywhere(dones=lambda d: [0.5 for _ in d]), "other values than 0 and 1"),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_bad_file_is_one_line_and_leaves_nothing(case: tuple, tmp_path: Path) -> None:
    damage, named = case
    path = parquet(tmp_path / "set.parquet", rows_of((30, 9, 7)))
    damage(path)
    with pytest.raises(UserError) as caught:
        hub.read(path, tmp_path / "read" / "store")
    assert named in str(caught.value)
    assert "set.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "read").exists() or list((tmp_path / "read").iterdir()) == []


def facts(**entries: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        table = json.loads((folder / "decision_seq.json").read_text()) | entries
        (folder / "decision_seq.json").write_text(json.dumps(table))

    return damage


EXPORTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (lambda p: (p / "decision_seq.json").write_text("{"), "is no valid JSON"),
    "a list": (
        lambda p: (p / "decision_seq.json").write_text("[1]"),
        "no table of keys and values",
    ),
    "a shard missing": (lambda p: next(p.rglob("*.parquet")).unlink(), "a file is missing"),
    "another count": (facts(transitions=3), "its decision_seq.json says 3"),
    "another shape": (facts(observation_shape=[3, 4]), "vectors of 11 numbers, not [3, 4]"),
    "no shape": (facts(observation_shape=["x"]), "is no shape"),
    "a name of 3": (facts(name=3), "name is 3"),
    "another family": (facts(family="chess"), "no family 'chess'"),
}


@pytest.mark.parametrize("case", EXPORTS.values(), ids=EXPORTS.keys())
def test_a_bad_export_is_one_line(
    case: tuple, store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, named = case
    monkeypatch.setattr("decision_seq.datasets.hub.export.ROW_GROUP_BYTES", 1000)
    monkeypatch.setattr("decision_seq.datasets.hub.export.SHARD_BYTES", 2000)
    write(store, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError) as caught:
        hub.read(tmp_path / "out", tmp_path / "read" / "store")
    assert named in str(caught.value)
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)


REPO = "edbeeching/decision_transformer_gym_replay"
ENOUGH = 20  # requests, after which it must be clear that nothing comes
NAME = f"{REPO}:hopper-medium-v2"
CONVERTED = f"datasets/{REPO}@refs-convert-parquet"
FILE = f"{CONVERTED}/hopper-medium-v2/train/0000.parquet"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """Server with a repository of code and pickles, and its Parquet conversion by the Hub."""
    root = tmp_path / "hub"
    main = root / "datasets" / REPO
    main.mkdir(parents=True)
    (main / "decision_transformer_gym_replay.py").write_text("raise SystemExit('code was run')")
    (main / "hopper-medium-v2.pkl").write_bytes(b"pickle")
    for index in range(2):
        rows = rows_of([400, 300])
        parquet(root / CONVERTED / f"hopper-medium-v2/train/{index:04d}.parquet", rows)
    parquet(root / CONVERTED / "walker2d-medium-v2/train/0000.parquet", rows_of([5]))
    with Loopback(root) as server:
        point_hub_at(server.url, tmp_path, monkeypatch)
        yield server


def test_a_configuration_is_fetched_once(server: Loopback, tmp_path: Path, read: Callable) -> None:
    folder = tmp_path / "got"
    path = open_remote(NAME, folder)
    store = read(path)
    assert store.lengths.tolist() == [400, 300, 400, 300]
    assert (store.name, store.header["family"]) == ("hopper-medium-v2", "hopper")
    assert NAME in store.source
    assert [child for child in folder.iterdir()] == [path]
    assert not any("pkl" in asked.path or ".py" in asked.path for asked in server.requests)
    asked = len(server.requests)
    assert open_remote(NAME, folder) == path
    assert len(server.requests) == asked


LAYOUTS: dict[str, tuple[dict[str, int], str | None, list[int]]] = {
    "the card says": ({"x/a.parquet": 5, "x/b.parquet": 4, "y.parquet": 3}, "two", [5, 4]),
    "folders": ({"one/0.parquet": 5, "one/train/1.parquet": 4, "two/0.parquet": 3}, "one", [5, 4]),
    "names": ({"data/one-train-00000-of-00001.parquet": 5, "data/two.parquet": 3}, "one", [5]),
    "only one": ({"data/train-0-of-1.parquet": 5, "data/test-0-of-1.parquet": 2}, None, [2, 5]),
}  # fmt: skip
CARD = "---\nconfigs:\n- config_name: two\n  data_files:\n  - split: train\n    path: x/*\n---\n"


@pytest.mark.parametrize("case", LAYOUTS.items(), ids=LAYOUTS.keys())
def test_the_files_of_a_configuration(
    case: tuple, server: Loopback, tmp_path: Path, read: Callable
) -> None:
    label, (files, config, lengths) = case
    repository = server.folder / "datasets" / "own" / "set"
    for name, length in files.items():
        parquet(repository / name, rows_of([length]))
    if label == "the card says":
        (repository / "README.md").write_text(CARD)
    store = read(open_remote(f"own/set:{config}" if config else "own/set", tmp_path / "got"))
    assert sorted(store.lengths.tolist()) == sorted(lengths)


def test_other_files_become_parquet_without_code(
    server: Loopback, tmp_path: Path, read: Callable
) -> None:
    repository = server.folder / "datasets" / "own" / "lines"
    repository.mkdir(parents=True)
    rows = rows_of([30, 9])
    (repository / "lines.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (repository / "dataset_infos.json").write_text("{}")
    path = open_remote("own/lines", tmp_path / "got")
    assert sorted(file.name for file in path.iterdir()) == ["all.parquet", "hub.json"]
    store = read(path)
    np.testing.assert_allclose(store.returns, [sum(row["rewards"]) for row in rows])
    (repository / "lines.jsonl").write_text("[1, 2")
    shutil.rmtree(tmp_path / "got")
    one_line("own/lines", "its files cannot be read", tmp_path)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: Loopback, tmp_path: Path, read: Callable
) -> None:
    server.faults[FILE] = cut(20_500)
    assert read(open_remote(NAME, tmp_path / "got")).num_transitions == 1400
    ranges = [
        asked.range for asked in server.requests if asked.path.endswith("v2/train/0000.parquet")
    ]
    assert ranges[-1] == "bytes=20000-"  # whole pieces of 1000 bytes are reused


def test_a_run_that_failed_is_gone_on_with(server: Loopback, tmp_path: Path) -> None:
    second = FILE.replace("0000", "0001")
    server.faults[second] = status(403, times=1)
    one_line(NAME, "HTTP 403", tmp_path)
    before = len(server.requests)
    open_remote(NAME, tmp_path / "got")
    fetched = [asked.path[-12:] for asked in server.requests[before:] if "/resolve/" in asked.path]
    assert set(fetched) == {"0001.parquet"}  # the first is present


def test_a_repository_that_changed_meanwhile_is_not_mixed(
    server: Loopback, tmp_path: Path, read: Callable
) -> None:
    second = FILE.replace("0000", "0001")
    server.faults[second] = status(403, times=1)
    one_line(NAME, "HTTP 403", tmp_path)
    (server.folder / FILE).unlink()  # fetched already, and no longer part of the set
    parquet(server.folder / FILE.replace("0000", "0002"), rows_of([11]))
    assert read(open_remote(NAME, tmp_path / "got")).lengths.tolist() == [400, 300, 11]
    assert list((tmp_path / "got").glob(".partial-*")) == []


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "refused": ("*", status(403), "refuses it (HTTP 403)"),
    "not logged in": ("*", status(401), "refuses it (HTTP 401); check the name"),
    "gone": ("*", status(404), "HTTP 404"),
    "broken": ("*", status(500), "answers HTTP 500; run again later"),
    "busy": ("*", status(429), "asks to wait"),
    "silent": ("*", hang(), "cannot be reached"),
    "file refused": (FILE, status(403), "refuses it (HTTP 403)"),
    "file gone": (FILE, status(404), "HTTP 404"),
    "file cut short": (FILE, short(5000), "should be of size"),
    "file cut again and again": (FILE, cut(0, times=None), "run again to go on"),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_what_goes_wrong_there_is_one_line_soon(
    server: Loopback, case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fault, named = case
    server.faults[path] = fault
    if fault.kind == "hang":  # a limit that no answer comes within
        monkeypatch.setattr("decision_seq.datasets.fetching.download.CONNECT_SECONDS", 0.2)
    one_line(NAME, named, tmp_path)
    assert len(server.requests) <= ENOUGH
    assert server.hung * CONNECT_SECONDS < 5


def one_line(name: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_remote(name, tmp_path / "got")
    assert named in str(caught.value)
    assert name.partition(":")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    got = tmp_path / "got"
    assert not got.exists() or all(c.name.startswith(".partial-") for c in got.iterdir())


UNKNOWN = {
    "repository": ("edbeeching/decision_transformer_gym", f"nearest there: {REPO}"),
    "owner": ("nobody/set", "check its spelling"),
    "configuration": (f"{REPO}:hoper-medium-v2", "nearest there: hopper-medium-v2"),
    "several": (REPO, f"say hub/{REPO}:CONFIG with one of hopper-medium-v2, walker2d-medium-v2"),
    "no name": ("set", "names are like OWNER/NAME"),
    "a path": ("../set", "names are like OWNER/NAME"),
}


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_name_hears_what_there_is(server: Loopback, case: tuple, tmp_path: Path) -> None:
    one_line(*case, tmp_path)


def test_a_repository_of_code_alone_is_not_run(server: Loopback, tmp_path: Path) -> None:
    shutil.rmtree(server.folder / CONVERTED)
    one_line(NAME, "its own code is not run", tmp_path)


def test_a_full_disk_is_said(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    one_line(NAME, "the disk is full; make room", tmp_path)


def test_no_network_is_said_at_once(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at("http://127.0.0.1:9", tmp_path, monkeypatch)
    one_line(NAME, "cannot be reached (Connection refused)", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    one_line(NAME, "HF_HUB_OFFLINE forbids", tmp_path)


def test_a_host_without_ranges_is_asked_anew(
    server: Loopback, tmp_path: Path, read: Callable
) -> None:
    server.faults[FILE] = cut(20_500)
    server.faults["*"] = no_range()
    assert read(open_remote(NAME, tmp_path / "got")).num_transitions == 1400


def test_a_process_of_its_own_reads_the_variables(server: Loopback, tmp_path: Path) -> None:
    """Users set HF_ENDPOINT and HF_HOME, which are read when the client is imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "import decision_seq.datasets.fetching.download as download\n"
        f"download.CONNECT_SECONDS = {LIMIT}\n"
        "from decision_seq.datasets.hub.remote import open_remote\n"
        f"print(open_remote({NAME!r}, Path(sys.argv[1])).name)"
    )
    variables = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "got")],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == f"{REPO.replace('/', '--')}--hopper-medium-v2"
    assert run.stderr == ""
