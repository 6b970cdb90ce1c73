"""Tests of reading runs: complete, or refused in one line that names the folder."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from decision_seq.report.compare import compare
from decision_seq.report.runs import Unfinished, find_runs, read_run
from decision_seq.types import UserError
from tests.report.folders import lines, write_run


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", seed=3))
    assert run.seed == 3
    assert run.headline.target == 3600
    assert run.targets == (3600, 1800)
    assert [record["step"] for record in run.evaluations] == [25, 50, 75, 100]
    assert run.metrics[-1]["step"] == 100
    assert run.commit == "0123456789ab"
    launches = [{"commit": "0123456789abcdef"}, {"commit": "f" * 40, "uncommitted": True}]
    resumed = dataclasses.replace(run, provenance={**run.provenance, "resumed": launches})
    assert resumed.commit == "0123456789ab, then ffffffffffff with uncommitted changes"
    assert run.size == "9 episodes, 3,000 transitions"


def test_runs_are_found_below_a_folder_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "b" / "run")
    write_run(tmp_path / "other")
    checkpoint = tmp_path / "other" / "checkpoints" / "step-00000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.yaml").write_text("{}")  # has a config.yaml but is no run
    runs, unfinished = find_runs([tmp_path, tmp_path / "other"])
    assert sorted(run.folder.name for run in runs) == ["other", "run"]
    assert unfinished == []


def test_search_ends_three_folders_down(tmp_path: Path) -> None:
    write_run(tmp_path / "top" / "1" / "2" / "3")
    assert len(find_runs([tmp_path / "top"])[0]) == 1
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])


def test_evaluations_of_another_protocol_are_not_this_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "evaluations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["protocol"]["env_id"] = "Hopper-v5"
    records[1]["protocol"]["precision"] = "bf16"
    lines(path, records)
    assert [record["step"] for record in read_run(folder).evaluations] == [75, 100]


def test_targets_chosen_after_training_are_remembered(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "evaluations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    looked = json.loads(json.dumps(records[-1]))
    for target, asked in zip(looked["targets"], (100.0, 50.0), strict=True):
        target["target"] = asked
    lines(path, [*records[:-1], looked, records[-1]])
    run = read_run(folder)
    assert run.former_targets == ((100.0, 50.0),)
    assert len(run.evaluations) == 4
    (note,) = compare([run]).notes
    assert "(100, 50), so those shown were chosen after training" in note
    records[0]["targets"] = looked["targets"]  # of an earlier checkpoint
    lines(path, records)
    assert read_run(folder).former_targets == ()


def test_an_exported_checkpoint_is_no_run(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "policy" / "trainer").mkdir(parents=True)
    (tmp_path / "policy" / "config.yaml").write_text("{}")
    runs, unfinished = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["run"]
    assert unfinished == []


def without_scores(folder: Path) -> None:
    (folder / "scores.json").unlink()


def with_more_to_do(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("steps: 100", "steps: 200"))


def without_rollout(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("episodes: 4", "episodes: 0"))


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (without_scores, "no scores.json"),
        (with_more_to_do, "step-00000100 and 200"),
        (without_rollout, "was not rolled out"),
    ],
)
def test_unfinished_runs_are_named(
    tmp_path: Path, leave: Callable[[Path], None], said: str
) -> None:
    folder = write_run(tmp_path / "half")
    leave(folder)
    write_run(tmp_path / "whole")
    with pytest.raises(Unfinished, match=said):
        read_run(folder)
    runs, unfinished = find_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["whole"]
    assert len(unfinished) == 1
    assert str(folder) in unfinished[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scores.json", "{"),
        ("scores.json", "[]"),
        ("scores.json", '{"targets": []}'),
        ("scores.json", '{"targets": [{"target": 1}]}'),
        ("config.yaml", "policy: {}"),
        ("config.yaml", "- 1"),
        ("evaluations.jsonl", '{"step": 1}\n'),
        ("metrics.jsonl", '{"step": 1, "seconds": "2"}\n'),
        ("metrics.jsonl", '{"step": 1, "seconds": -2}\n'),
        ("metrics.jsonl", '{"step": 1, "seconds": 1e300}\n'),
        ("metrics.jsonl", '{"step": 1}\n{"st'),
        ("provenance.json", "nothing"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(UserError) as refused:
        read_run(folder)
    assert not isinstance(refused.value, Unfinished)
    assert str(folder) in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_folder_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        find_runs([tmp_path / "absent"])
    with pytest.raises(UserError, match="is no run"):
        read_run(tmp_path)


def change(*path: object) -> Callable[[Any], None]:
    """Function that sets the last element of `path` at the keys before it."""

    def made(tree: Any) -> None:
        *keys, last, value = path
        for key in keys:
            tree = tree[key]
        tree[last] = value

    return made


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("scores.json", change("targets", 0, "normalized_score", math.nan)),
        ("scores.json", change("targets", 0, "normalized_score", 1e308)),
        ("scores.json", change("targets", 0, "return_mean", "abc")),
        ("scores.json", change("targets", 0, "returns", [None] * 4)),
        ("scores.json", change("targets", 0, "interval_95", ["a", "b"])),
        ("scores.json", change("targets", 0, "target", 10**400)),
        ("scores.json", change("targets", 0, "seed", [1])),
        ("scores.json", change("source", None)),
        ("scores.json", change("env_id", ["x"])),
        ("scores.json", change("notes", None)),
        ("evaluations.jsonl", change(0, "step", "1")),
        ("evaluations.jsonl", change(0, "step", math.inf)),
        ("evaluations.jsonl", change(0, "targets", 0, "normalized_score", "abc")),
        ("metrics.jsonl", change(0, "loss", "x")),
        ("provenance.json", change("data", 5)),
        ("provenance.json", change("data", "episodes", "x")),
        ("provenance.json", change("commit", 5)),
        ("provenance.json", change("resumed", [{"commit": 5}])),
        ("provenance.json", change("resumed", [5])),
        ("config.yaml", change("train", "steps", "100")),
        ("config.yaml", change("evaluation", "episodes", "x")),
    ],
)
def test_a_value_of_the_wrong_kind_is_damage(
    tmp_path: Path, name: str, made: Callable[[Any], None]
) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / name
    if name.endswith("l") and name != "config.yaml":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        made(records)
        lines(path, records)
    else:
        tree = yaml.safe_load(path.read_text())
        made(tree)
        path.write_text(yaml.safe_dump(tree) if name == "config.yaml" else json.dumps(tree))
    with pytest.raises(UserError, match=f"is damaged: {name}") as refused:
        read_run(folder)
    assert "\n" not in str(refused.value)
