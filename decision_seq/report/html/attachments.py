"""What a run's folder holds beside its scores: a calibration, an explanation and films."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.formatting import number_text
from decision_seq.reading import Kinds, Unreadable, fault_of, read_bytes, read_record
from decision_seq.report.explanation import explanation_rows
from decision_seq.report.html.tables import Cell, Column, Row, Table
from decision_seq.report.runs import FinishedRun, is_number
from decision_seq.types import UserError

MOST_FILM_BYTES = 24_000_000  # of all films of a page
MOST_PICTURE_BYTES = 2_500_000  # of all pictures of a page
FILMS = {".gif": ("image/gif", 0, b"GIF8"), ".mp4": ("video/mp4", 4, b"ftyp")}
PNG = b"\x89PNG\r\n\x1a\n"
NOT_SEARCHED = ("checkpoints", "tensorboard")  # folders of a run that hold no films
CALIBRATION: Kinds = {
    **{"checkpoint": str, "env_id": str, "episodes": int},
    **{"data_return_quantiles": dict, "points": list},
}
POINT: Kinds = {
    **{"target": float, "return_mean": float, "returns": list},
    "interval_95": (list, type(None)),
}
EXPLANATION: Kinds = {
    **{"checkpoint": str, "env_id": str, "event": str, "stage": str},
    **{"episodes": int, "happened": int, "succeeded": int},
    **{"estimates": (dict, type(None)), "attention": (dict, type(None))},
}


@dataclass(frozen=True)
class Explanation:
    """An explanation.json and its picture."""

    run: FinishedRun
    facts: str
    """What was played."""
    table: Table | None
    """See `explanation_rows`; None where only the picture is there."""
    picture: str
    """The picture as a data URI; empty where it is absent or left out."""


@dataclass(frozen=True)
class Film:
    """A film of an episode."""

    run: FinishedRun
    path: Path
    """Path within the run's folder."""
    kind: str
    """Its media type."""
    bytes: int
    uri: str
    """The film as a data URI; empty where it is left out."""

    @property
    def size(self) -> str:
        return f"{number_text(self.bytes / 1e6)} MB"


class Budget:
    """Bytes that may still be embedded in a page."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> bool:
        """Whether so many bytes fit; they are taken if they do."""
        if size > self.left:
            return False
        self.left -= size
        return True


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path} is damaged: {fault}; make it again or remove it")


def calibration(run: FinishedRun) -> dict[str, Any] | None:
    """The run's calibration.json; None where it has none. UserError where it is damaged."""
    path = run.folder / "calibration.json"
    if not path.exists():
        return None
    found = read_record(path, CALIBRATION, within=run.folder)
    known = found["data_return_quantiles"]
    numbers = [known.get("50"), known.get("100")]
    for point in found["points"]:
        fault = fault_of(point, POINT)
        if fault or len(point["interval_95"] or "..") != 2:
            raise _damaged(path, f"a point: {fault or 'its interval_95 has not two ends'}")
        numbers += [point["target"], point["return_mean"], *point["returns"]]
        numbers += point["interval_95"] or []
    if not found["points"] or not all(map(is_number, numbers)):
        raise _damaged(path, "it has no points, or one of its returns is no finite number")
    return found


def explanations(runs: Sequence[FinishedRun], budget: Budget) -> list[Explanation]:
    """The explanations that the runs hold. UserError where one is damaged."""
    found: list[Explanation] = []
    for run in runs:
        facts, rows = _explained(run)
        path = run.folder / "explanation.png"
        if path.exists():
            data = read_bytes(path, within=run.folder)
            if not data.startswith(PNG):
                raise _damaged(path, "it is no PNG picture")
            uri = data_uri("image/png", data) if budget.take(len(data)) else ""
            left_out = "" if uri else " The picture is left out, as the page would be too large."
            found.append(Explanation(run, f"{facts}{left_out}", _table(rows, len(found)), uri))
        elif rows:
            found.append(Explanation(run, facts, _table(rows, len(found)), ""))
    return found


def _table(rows: Sequence[Sequence[str]], number: int) -> Table | None:
    columns = [Column("quantity", sortable=False)]
    columns += [Column(title, True, sortable=False) for title in ("mean", "from", "to", "episodes")]
    made = [Row([Cell(text) for text in row]) for row in rows]
    caption = "Estimates and attention, with 95 % intervals"
    return Table(f"explanation-{number}", caption, columns, made) if made else None


def _explained(run: FinishedRun) -> tuple[str, list[list[str]]]:
    """What was played, and the rows of the table."""
    path = run.folder / "explanation.json"
    if not path.exists():
        return "", []
    tree = read_record(path, EXPLANATION, within=run.folder)
    try:
        rows = explanation_rows(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}"[:80]) from error
    facts = (
        f"{tree['episodes']:,} episodes of uniform random actions in {tree['env_id']};"
        f" {tree['event']} in {tree['happened']:,}, success in {tree['succeeded']:,}."
        f" Checkpoint {Path(tree['checkpoint']).name}."
    )
    return facts, rows


def films(runs: Sequence[FinishedRun], budget: Budget) -> list[Film]:
    """The films that the runs hold, as many as fit: first the first of every run."""
    paths = [list(_film_paths(run.folder)) for run in runs]
    order = sorted((at, number) for number, of in enumerate(paths) for at in range(len(of)))
    found = {}
    for at, number in order:
        found[number, at] = _film(runs[number], paths[number][at], budget)
    return [found[key] for key in sorted(found)]


def _film_paths(folder: Path) -> Iterator[Path]:
    """Films in the run's folder and in the folders below it, links apart."""
    try:
        entries = sorted(folder.iterdir())
        below = [
            child
            for entry in entries
            if entry.is_dir() and not entry.is_symlink() and entry.name not in NOT_SEARCHED
            for child in sorted(entry.iterdir())
        ]
    except OSError as error:
        raise UserError(f"cannot look into {folder}: {error.strerror}") from error
    for path in (*entries, *below):
        if path.suffix in FILMS and path.is_file() and not path.is_symlink():
            yield path


def _film(run: FinishedRun, path: Path, budget: Budget) -> Film:
    kind, at, mark = FILMS[path.suffix]
    size, uri = path.stat().st_size, ""
    if budget.take(size):
        try:
            data = read_bytes(path, max(size, 1), within=run.folder)
        except Unreadable as error:
            raise UserError(f"{error}; remove it") from error
        if data[at : at + len(mark)] != mark:
            raise _damaged(path, f"it is no {path.suffix[1:]} film")
        uri = data_uri(kind, data)
    return Film(run, path.relative_to(run.folder), kind, size, uri)
