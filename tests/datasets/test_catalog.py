import json
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.cli import main
from decision_seq.datasets import Request, open_dataset
from decision_seq.datasets.catalog import COLUMNS, catalog
from decision_seq.datasets.collected.bundled import DEFAULT_SIZE, bundled, store_name
from decision_seq.datasets.collected.bundled_atari import COLLECTIONS
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.d4rl.reader import published


def rows_by_name() -> dict[str, dict]:
    return {row["name"]: row for row in catalog()}


def test_every_name_is_listed() -> None:
    names = rows_by_name().keys()
    assert {f"bundled/{name}" for name in bundled()} <= names
    assert {f"d4rl/{name}" for name in published()} <= names


def test_what_is_here_is_known(
    write_d4rl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_by_name()["d4rl/hopper-medium-v2"]["here"] == "to fetch"
    path = write_d4rl((40, 25))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(path.parent))
    row = rows_by_name()["d4rl/hopper-medium-v2"]
    assert (row["here"], row["episodes"]) == ("yes", None)
    store = open_dataset("d4rl/hopper-medium-v2")
    row = rows_by_name()["d4rl/hopper-medium-v2"]
    assert (row["episodes"], row["size"]) == (2, "65 steps")
    assert row["return"] == f"{store.returns.mean():.1f}"
    assert str(path) in {row["name"] for row in catalog("store")}


def test_a_bundled_dataset_is_here_once_it_is_made() -> None:
    assert rows_by_name()["bundled/hopper-random"]["here"] == "made on first use"
    size = DEFAULT_SIZE
    folder = open_dataset("bundled/hopper-random", Request(size=Size(40))).path
    folder.rename(folder.with_name(folder.name.replace("40steps", f"{size.count}steps")))
    assert rows_by_name()["bundled/hopper-random"]["here"] == "yes"


def test_a_collection_has_a_size_of_its_own(stores: Path) -> None:
    rows = rows_by_name()
    assert rows["bundled/hopper-random"]["size"] == "200,000 steps"
    row = rows["bundled/key-to-door-10k"]
    assert (row["size"], row["episodes"], row["normalized"]) == ("10,000 episodes", 10_000, "3.1")
    assert row["here"] == "made on first use"
    (stores / store_name("key-to-door-10k", Size(10_000, "episode"), 0)).mkdir(parents=True)
    assert rows_by_name()["bundled/key-to-door-10k"]["here"] == "yes"


def test_the_table_and_its_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert all(word in table[0] for word in COLUMNS)
    assert len(table) == 2 + len(bundled()) + len(COLLECTIONS) + len(published())
    assert main(["data", "list", "--source", "bundled", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {f"bundled/{name}" for name in bundled()}
