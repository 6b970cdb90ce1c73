"""Tests of a report's page: what it holds, its structure, and names that are only text."""

import base64
import hashlib
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from decision_seq.cli import main
from decision_seq.report.html.page import digest
from tests.report.folders import write_run
from tests.report.html.pages import (
    BC,
    Read,
    made,
    write_calibration,
    write_explanation,
    write_film,
    write_runs,
)

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}</script><!--"
FORGED = "\x1b[31m\u202edlrow"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_runs(tmp_path_factory.mktemp("runs"))
    write_calibration(folder / "dt-0")
    write_explanation(folder / "dt-1")
    write_film(folder / "dt-0" / "films" / "target3600-seed10000.gif")
    return folder


@pytest.fixture(scope="module")
def text(runs: Path) -> str:
    return made(runs)


@pytest.fixture(scope="module")
def read(text: str) -> Read:
    return Read(text)


def test_it_holds_all_parts(read: Read, runs: Path) -> None:
    for heading in (
        *("Summary", "Scores", "Learning curves", "Every run", "Over datasets", "Calibration"),
        *("Attention", "Films", "Choices made afterwards", "Configuration", "Provenance"),
    ):
        assert heading in read.texts
    assert "cloning and returns on 2 datasets" in read.text
    assert "7 finished runs of 2 methods (cloning, returns) on 2 datasets." in read.text
    assert f"{runs / 'half'}: unfinished" in read.text
    assert "Published numbers are a comparison on d4rl/hopper-medium-v2" in read.text
    assert "Published numbers are only context on bundled/reacher2d-medium" in read.text
    assert "highest mean returns" in read.text
    assert "Their intervals do not overlap." in read.text
    assert "3600.0, 1800.0" in read.text  # a setting that differs
    assert "3,000 transitions" in read.text
    assert "0123456789ab" in read.text
    assert "mujoco 4.0.0" in read.text
    assert "the last one, step-00000100, after all 100 updates" in read.text
    assert "training 2; episodes 10000 to 10003 at each target" in read.text
    assert "100 episodes of uniform random actions in KeyToDoor-v0" in read.text
    assert "attention of phase 2 on the step of the key" in read.text


def test_numbers_are_those_of_the_text_report(
    read: Read, runs: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", str(runs)]) == 0
    printed = capsys.readouterr().out
    shown = re.findall(r"(\S+) (\[[^]]+\]),? (?:raw, )?3 seeds", printed)
    assert len(shown) == 2 + 1  # two methods, and another target
    for mean, interval in shown:
        assert mean in read.texts
        assert interval in read.texts


def test_the_same_runs_give_the_same_page(runs: Path, text: str) -> None:
    assert made(runs) == text


def test_it_is_one_file_and_its_policy_forbids_others(read: Read, text: str) -> None:
    policies = [meta for meta in read.all("meta") if "http-equiv" in meta]
    (policy,) = (meta["content"] for meta in policies)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    assert "unsafe" not in policy
    for name in ("style", "script"):
        (code,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{hashed}'" in policy
        assert digest(code) == f"sha256-{hashed}"
    for _, attributes in read.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for key in ("src", "href", "action", "srcset", "poster"):
            target = attributes.get(key)
            assert target is None or target.startswith(("#", "data:"))


def test_its_structure_is_sound(read: Read) -> None:
    ids = read.ids
    assert len(set(ids)) == len(ids)
    for _, attributes in read.elements:
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(read.all(landmark)) == 1
    assert len(read.all("caption")) == len(read.all("table")) > 8
    assert all(head.get("scope") in ("col", "row") for head in read.all("th"))
    assert all(image.get("alt") for image in read.all("img"))
    for drawing in read.all("svg"):
        named = {"aria-label", "aria-labelledby"} & set(drawing)
        assert drawing.get("aria-hidden") == "true" or (drawing.get("role") == "img" and named)


def test_numbers_in_tables_have_what_they_are_sorted_by(read: Read) -> None:
    cells = [cell for cell in read.all("td") if "number" in (cell["class"] or "").split()]
    assert len(cells) > 60
    assert sum("data-v" in cell for cell in cells) > 40


def test_curves_are_drawn_by_updates_and_by_wall_clock(read: Read) -> None:
    charts = {name for name in read.ids if re.fullmatch(r"(score|loss)-\w+-\d-title", name)}
    drawn = {f"{kind}-updates-{row}-title" for kind in ("score", "loss") for row in (0, 1)}
    assert charts == drawn | {"score-seconds-0-title", "loss-seconds-0-title"}
    assert "No run of this dataset has recorded its wall-clock." in read.text
    assert "wall-clock of training (seconds)" in read.texts
    assert {"by-updates", "by-seconds"} <= set(read.ids)


def test_without_any_wall_clock_there_is_no_choice(tmp_path: Path) -> None:
    write_run(tmp_path / "a", timed=False)
    found = Read(made(tmp_path))
    assert "No run has recorded its wall-clock" in found.text
    assert "by-seconds" not in found.ids
    assert "Their intervals" not in found.text
    assert "the only method" in found.text


def with_names(folder: Path, name: str) -> Path:
    """Two runs in which everything that is text has a name."""
    for seed in range(2):
        run = write_run(
            folder / f"{name}{seed}".replace("/", "_"),
            seed,
            dataset=f"d4rl/{name}",
            source=name,
            env_id=name,
            policy={"name": "dt", name: name},
            more={"method": name, f"k{name}": [name, {name: name}]},
        )
        scores = json.loads((run / "scores.json").read_text())
        (run / "scores.json").write_text(json.dumps({**scores, "notes": [name]}))
        facts = {"command": [name], "commit": name, "packages": {name: name}, "started": name}
        facts |= {"python": name, "machine": {name: name}, "resumed": [{"command": [name]}]}
        facts["data"] = {"source": {name: name}, "episodes": 1, "transitions": 1}
        (run / "provenance.json").write_text(json.dumps(facts))
        write_calibration(run, checkpoint=name, env_id=name)
        write_explanation(run, event=name, stage=name, env_id=name, checkpoint=name)
        write_film(run / f"{name}.gif".replace("/", "_"))
    half = write_run(folder / f"half{name}".replace("/", "_"))
    (half / "scores.json").unlink()
    return folder


@pytest.mark.parametrize("name", [HOSTILE, FORGED])
def test_names_from_runs_are_only_text(tmp_path: Path, name: str) -> None:
    plain, hostile = (with_names(tmp_path / n[:2], n) for n in ("plain", name))
    text = made(hostile)
    first, second = Read(made(plain)), Read(text)
    assert [tag for tag, _ in first.elements] == [tag for tag, _ in second.elements]
    assert [set(found) for _, found in first.elements] == [set(f) for _, f in second.elements]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert sum(name[:5].replace("\x1b", "\\x1b") in part for part in second.texts) > 20


def test_a_hundred_runs_make_a_page_that_can_be_used(tmp_path: Path) -> None:
    for number in range(100):
        task, method, seed = number // 20, number // 5 % 4, number % 5
        write_run(
            tmp_path / str(number),
            seed,
            1000 + 100 * method,
            dataset=f"d4rl/hopper-task{task}-v2",
            policy={"name": ("dt", "bc", "tt", "bdt")[method]},
            steps=2_000,
            evaluations=20,
        )
    began = time.process_time()
    text = made(tmp_path)
    assert time.process_time() - began < 10
    assert 200_000 < len(text.encode()) < 5_000_000
    assert len(Read(text).all("details")) > 100


def test_settings_that_do_not_differ_are_not_in_the_table(runs: Path, read: Read) -> None:
    at = read.texts.index("Settings that differ")
    rest = read.texts[at:]
    table = rest[: next(i for i, t in enumerate(rest) if t.startswith("Settings that are equal"))]
    assert "policy.name" in table
    assert "dataset" in table
    assert "train.log_every" not in table
    assert "train.log_every" in rest
    assert "seed" not in table


def test_one_seed_alone_has_no_settings_that_differ(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / str(seed), seed)
    assert "All runs have the same settings but for their seeds." in Read(made(tmp_path)).text
    write_run(tmp_path / "2", 2, more={"collection": {"steps": 7}})
    found = Read(made(tmp_path)).texts  # not of the method, so the three runs are one group
    assert "collection.steps" in found
    assert "- | 7" in found


def test_targets_that_were_chosen_after_training_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "Targets were declared before training." in Read(made(tmp_path)).text
    records = (run / "evaluations.jsonl").read_text().splitlines()
    former = json.loads(records[-1])
    for target in former["targets"]:
        target["target"] = 7.0
    (run / "evaluations.jsonl").write_text("\n".join([*records[:-1], json.dumps(former), ""]))
    found = Read(made(tmp_path)).text
    assert "Targets were declared before training." not in found
    assert "Some targets were chosen after training, see the notes." in found


def test_the_command_writes_it_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = write_run(tmp_path / "run", policy=BC, targets=(None,))
    path = tmp_path / "new" / "report.html"
    assert main(["report", str(run), "--html", str(path)]) == 0
    assert f"written: {path}" in capsys.readouterr().err
    assert Read(path.read_text()).all("main")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    write_calibration(run, points=[])
    (tmp_path / "folder").mkdir()
    for target in (path, tmp_path / "folder"):
        before = path.read_bytes()
        assert main(["report", str(run), "--html", str(target)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert path.read_bytes() == before
        (run / "calibration.json").unlink(missing_ok=True)
