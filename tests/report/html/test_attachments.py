"""Tests of what a page takes from run folders: calibrations, explanations, films, provenance."""

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from decision_seq.report.compare import compare
from decision_seq.report.html.attachments import (
    Budget,
    calibration,
    explanations,
    films,
)
from decision_seq.report.html.provenance import provenance
from decision_seq.report.runs import FinishedRun, find_runs, read_run
from decision_seq.types import UserError
from tests.report.folders import write_run
from tests.report.html.pages import (
    RETURNS,
    Read,
    made,
    write_calibration,
    write_explanation,
    write_film,
)

PLENTY = 10_000_000


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    return read_run(write_run(tmp_path / "run", more=RETURNS))


def test_a_run_may_hold_none_of_them(run: FinishedRun) -> None:
    assert calibration(run) is None
    assert explanations([run], Budget(PLENTY)) == []
    assert films([run], Budget(PLENTY)) == []


def test_a_calibration_is_drawn(run: FinishedRun, tmp_path: Path) -> None:
    write_calibration(run.folder)
    found = Read(made(tmp_path))
    assert "calibration-0-title" in found.ids
    assert "returns, seed 0, Hopper-v4, step-00000100; 2 episodes a target" in found.text


POINT = {"target": 1.0, "return_mean": 1.0, "interval_95": None, "returns": [1.0]}


@pytest.mark.parametrize(
    "changes",
    [
        {"points": []},
        {"points": [1]},
        {"points": [{**POINT, "target": "1"}]},
        {"points": [{**POINT, "returns": ["1"]}]},
        {"points": [{**POINT, "interval_95": [1.0]}]},
        {"points": [{**POINT, "return_mean": 1e300}]},
        {"data_return_quantiles": {"0": 1.0}},
        {"checkpoint": None},
        {"episodes": 1.5},
        {"points": [{**POINT, "return_mean": math.nan}]},
    ],
)
def test_a_damaged_calibration_is_one_line(run: FinishedRun, changes: dict) -> None:
    write_calibration(run.folder, points=[POINT])
    assert calibration(run) is not None
    write_calibration(run.folder, **changes)
    with pytest.raises(UserError, match="calibration") as refused:
        calibration(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes", [{"attention": {"last_stage": 1}}, {"estimates": {"separated": 1}}]
)
def test_a_damaged_explanation_is_one_line(run: FinishedRun, changes: dict) -> None:
    write_explanation(run.folder)
    (one,) = explanations([run], Budget(PLENTY))
    assert one.table is not None
    assert one.picture.startswith("data:image/png;base64,")
    write_explanation(run.folder, **changes)
    with pytest.raises(UserError, match=r"explanation\.json is damaged") as refused:
        explanations([run], Budget(PLENTY))
    assert "\n" not in str(refused.value)


def test_an_explanation_may_lack_its_picture_or_its_numbers(run: FinishedRun) -> None:
    write_explanation(run.folder)
    (left_out,) = explanations([run], Budget(10))
    assert left_out.picture == ""
    assert "The picture is left out" in left_out.facts
    (run.folder / "explanation.json").rename(run.folder / "away.json")
    (alone,) = explanations([run], Budget(PLENTY))
    assert alone.table is None
    (run.folder / "away.json").rename(run.folder / "explanation.json")
    (run.folder / "explanation.png").write_bytes(b"<svg onload=x>")
    with pytest.raises(UserError, match="is no PNG"):
        explanations([run], Budget(PLENTY))
    (run.folder / "explanation.png").unlink()
    (without,) = explanations([run], Budget(PLENTY))
    assert without.picture == ""


def test_films_are_embedded_as_they_are(run: FinishedRun) -> None:
    write_film(run.folder / "films" / "b.gif")
    write_film(run.folder / "a.gif")
    write_film(run.folder / "checkpoints" / "c.gif")  # a checkpoint holds no films
    (run.folder / "films" / "d.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    found = films([run], Budget(PLENTY))
    assert [str(film.path) for film in found] == ["a.gif", "films/b.gif", "films/d.mp4"]
    assert [film.kind for film in found] == ["image/gif", "image/gif", "video/mp4"]
    kind, _, data = found[1].uri.partition(",")
    assert kind == "data:image/gif;base64"
    assert base64.b64decode(data) == (run.folder / "films" / "b.gif").read_bytes()


def test_films_beyond_the_bound_are_named(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_film(run.folder / f"{name}.gif")
    other = read_run(write_run(tmp_path / "other", 1))
    write_film(other.folder / "c.gif")
    size = (run.folder / "a.gif").stat().st_size
    found = films([run, other], Budget(2 * size))
    assert [(film.path.name, bool(film.uri)) for film in found] == [  # the first of each run
        *(("a.gif", True), ("b.gif", False), ("c.gif", True))
    ]
    monkeypatch.setattr("decision_seq.report.html.attachments.MOST_FILM_BYTES", 2 * size)
    text = Read(made(tmp_path)).text
    assert "run: b.gif is left out: with its" in text
    assert "run: a.gif is left out" not in text


def linked(folder: Path) -> None:
    secret = folder.parent / "secret.gif"
    write_film(secret)
    (folder / "a.gif").symlink_to(secret)
    (folder / "films").symlink_to(folder.parent)


def no_film(folder: Path) -> None:
    (folder / "a.gif").write_text("<script>")


def linked_calibration(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    write_calibration(folder.parent / "other")
    (folder / "calibration.json").symlink_to(folder.parent / "other" / "calibration.json")


def test_films_of_others_are_not_taken_through_links(run: FinishedRun) -> None:
    linked(run.folder)
    assert films([run], Budget(PLENTY)) == []


@pytest.mark.parametrize(
    ("place", "said"), [(no_film, "is no gif film"), (linked_calibration, "is a link out of")]
)
def test_what_is_no_film_or_lies_elsewhere_is_refused(
    run: FinishedRun, tmp_path: Path, place: Callable[[Path], None], said: str
) -> None:
    place(run.folder)
    with pytest.raises(UserError, match=said):
        made(run.folder)


def test_provenance_names_every_launch(run: FinishedRun, tmp_path: Path) -> None:
    launch = {"command": ["decision-seq", "train", "--dataset", "a b"], "started": "2026-01-01"}
    facts = {
        **launch,
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "machine": {"cores": 2},
        "data": {"source": {"kind": "bundled", "policies": ["p"]}, "episodes": 9},
        "resumed": [{**launch, "started": "2026-01-02"}],
    }
    (run.folder / "provenance.json").write_text(json.dumps(facts))
    (one,) = provenance(compare(find_runs([tmp_path])[0]))
    found = dict(one.facts)
    assert one.command == "decision-seq train --dataset 'a b'"
    assert found["Packages"] == "torch 2.13.0, numpy 2.4.6"
    assert found["Machine"] == "cores 2"
    assert found["Data's source"] == "kind bundled, policies p"
    assert found["Resumed"] == "2026-01-02: decision-seq train --dataset 'a b'"
    assert found["Training time"] == "50.0 s"
    (run.folder / "provenance.json").unlink()
    (bare,) = provenance(compare(find_runs([tmp_path])[0]))
    assert bare.command == ""
    assert dict(bare.facts)["Commit"] == "unknown"
