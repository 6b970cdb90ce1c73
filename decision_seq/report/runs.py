"""Finished runs, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decision_seq.config import read_yaml
from decision_seq.reading import (
    Absent,
    Kinds,
    Unreadable,
    fault_of,
    parse_json,
    read_json,
    read_lines,
)
from decision_seq.types import Scores, TargetScore, UserError

# Kinds of the settings of a rollout that older runs may lack.
ACTING: Kinds = {"precision": (str, type(None)), "temperature": (float, type(None))}
# Of a record of metrics.jsonl or evaluations.jsonl; runs of older versions have no `seconds`.
RECORD: Kinds = {"step": int, "loss": (float, type(None)), "seconds": (float, type(None))}
DEPTH = 3  # levels of folders below the given one that are searched for runs


class Unfinished(UserError):
    """A run that was started and has no scores of its last update."""


@dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run, parsed."""

    folder: Path
    """The run's folder."""
    config: dict[str, Any]
    """Content of config.yaml: the resolved configuration."""
    scores: Scores
    """Content of scores.json: the scores of the last checkpoint."""
    evaluations: tuple[dict[str, Any], ...]
    """Evaluations under the run's own protocol: those during training and the last."""
    curve: tuple[dict[str, Any], ...]
    """Evaluations at the first target, of any number of episodes, with the seconds trained."""
    former_targets: tuple[tuple[float | None, ...], ...]
    """Other targets at which the last checkpoint was rolled out before."""
    metrics: tuple[dict[str, Any], ...]
    """Records of metrics.jsonl."""
    provenance: dict[str, Any]
    """Content of provenance.json; {} where the file is absent."""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def headline(self) -> TargetScore:
        """The score of the last checkpoint at the first declared target."""
        return self.scores.targets[0]

    @property
    def targets(self) -> tuple[float | None, ...]:
        return tuple(score.target for score in self.scores.targets)

    @property
    def acting(self) -> str:
        """Precision and temperature at which the policy was rolled out."""
        return _acting(self.config["evaluation"])

    @property
    def checkpoint(self) -> str:
        """The checkpoint of the scores: `last`, or an earlier one's name."""
        name = Path(self.scores.checkpoint).name
        return "last" if name == f"step-{self.config['train']['steps']:08d}" else name

    @property
    def size(self) -> str:
        """Amount of training data; collections of one name come in several sizes."""
        data = self.provenance.get("data") or {}
        counts = (data.get("episodes"), data.get("transitions"))
        return "unknown" if None in counts else f"{counts[0]:,} episodes, {counts[1]:,} transitions"

    @property
    def commit(self) -> str | None:
        """The commit of the first launch, then other commits that resumed the run."""
        named: list[str] = []
        for launch in launches(self.provenance):
            changed = " with uncommitted changes" if launch.get("uncommitted") else ""
            commit = f"{launch['commit'][:12]}{changed}" if launch.get("commit") else "unknown"
            if commit not in named:
                named.append(commit)
        return None if named == ["unknown"] else ", then ".join(named)


def _acting(tree: dict[str, Any]) -> str:
    """`fp32`, `bf16, its actions drawn at temperature 1`; older runs lack both settings."""
    temperature = tree.get("temperature", 0.0)
    drawn = f", its actions drawn at temperature {temperature:g}" if temperature else ""
    planner = tree.get("planner") or {}  # of an evaluation that plans by other settings
    planned = "".join(f", planner {key} {planner[key]}" for key in sorted(planner))
    return tree.get("precision", "fp32") + drawn + planned


def value(score: TargetScore) -> float:
    """The normalized score, or the raw return where no reference scores exist."""
    return score.return_mean if score.normalized_score is None else score.normalized_score


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Search folders for runs -> the finished runs, and a line for each unfinished one.

    UserError when a folder is absent, holds no run, or a run in it is damaged.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give a run's folder or one that holds runs")
        found = _search(path, DEPTH)
        if not found:
            raise UserError(f"{path} holds no run: no config.yaml down to {DEPTH} folders below it")
        folders.update({folder.resolve(): folder for folder in found})
    runs, unfinished = [], []
    for folder in folders.values():
        try:
            runs.append(read_run(folder))
        except Unfinished as error:
            unfinished.append(str(error))
    return runs, unfinished


def _search(path: Path, depth: int) -> list[Path]:
    if (path / "trainer").is_dir():
        return []  # a checkpoint, which holds a config.yaml of its own: an exported policy
    if (path / "config.yaml").is_file():
        return [path]
    if depth == 0:
        return []
    try:
        below = sorted(child for child in path.iterdir() if child.is_dir())
    except OSError as error:
        raise UserError(f"cannot look into {path}: {error.strerror}") from error
    return [run for child in below for run in _search(child, depth - 1)]


def read_run(folder: Path) -> FinishedRun:
    """Read one run's folder.

    UserError, which names the folder, when it holds no run or a damaged one; Unfinished when it has
    no scores of its last update.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run: it holds no config.yaml")
    config = read_yaml(folder / "config.yaml")
    try:
        seeded = isinstance(config["seed"], int) and isinstance(config["policy"]["name"], str)
        steps, episodes = config["train"]["steps"], config["evaluation"]["episodes"]
        fault = fault_of(config["evaluation"], ACTING)
        if fault:
            raise ValueError(f"evaluation: {fault}")
        if not type(steps) is type(episodes) is int:
            raise ValueError("train.steps or evaluation.episodes is no whole number")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, "config.yaml", error) from error
    if not seeded:
        raise UserError(
            f"{folder} is damaged: config.yaml names no seed or no policy; leave it out"
        )
    if not episodes:
        raise Unfinished(f"{folder}: was not rolled out (evaluation.episodes 0), so has no scores")
    if not (folder / "scores.json").exists():
        raise Unfinished(f"{folder}: unfinished, no scores.json; go on with --resume must")
    scores = scores_of(_json(folder, "scores.json"), folder, "scores.json")
    evaluations, curve, former = _evaluations(folder, scores, _acting(config["evaluation"]))
    if Path(scores.checkpoint).name != f"step-{steps:08d}":
        raise Unfinished(
            f"{folder}: unfinished, its scores are of {Path(scores.checkpoint).name} and {steps:,}"
            " updates are asked for; go on with --resume must"
        )
    return FinishedRun(
        folder,
        config,
        scores,
        tuple(evaluations),
        tuple(curve),
        tuple(targets for step, targets in former if step == steps),
        tuple(_records(folder, "metrics.jsonl")),
        _provenance(folder),
    )


def damaged(folder: Path, name: str, error: Exception | str) -> UserError:
    """The error for a damaged file of a run's folder."""
    message = f"{type(error).__name__} {error}" if isinstance(error, Exception) else error
    return UserError(
        f"{folder} is damaged: {name}: {' '.join(message.split())[:100]}; leave it out"
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(folder / name)
    except Unreadable as error:
        raise damaged(folder, name, f"it {error.reason}") from error


def _provenance(folder: Path) -> dict[str, Any]:
    if not (folder / "provenance.json").exists():
        return {}
    tree = _json(folder, "provenance.json")
    data = tree.get("data") or {}
    counts = [data.get(key) for key in ("episodes", "transitions")] if type(data) is dict else [""]
    found = launches(tree)
    sound = all(isinstance(launch, dict) for launch in found) and all(
        isinstance(launch.get("commit"), str | None) for launch in found
    )
    if not sound or not all(type(n) in (int, type(None)) for n in counts):
        raise damaged(folder, "provenance.json", "its commit or its counts are of a wrong type")
    return tree


def launches(provenance: dict[str, Any]) -> list[Any]:
    """The first launch, then the launches that resumed the run."""
    resumed = provenance.get("resumed") or []
    return [provenance, *(resumed if isinstance(resumed, list) else [resumed])]


def scores_of(tree: dict[str, Any], folder: Path, name: str) -> Scores:
    """The scores in a JSON tree, read from the file `name`; UserError where they are damaged."""
    try:
        targets = [_target(target) for target in tree["targets"]]
        scores = Scores(**{**tree, "targets": targets})
        sound = targets and all(len(target.returns) == target.episodes > 0 for target in targets)
        named = (scores.dataset, scores.source, scores.env_id, scores.checkpoint, *scores.notes)
        if not all(isinstance(text, str) for text in named):
            raise ValueError("a name or a note is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, name, error) from error
    if not sound:
        raise damaged(folder, name, "its targets do not hold their episodes")
    return scores


def _target(tree: dict[str, Any]) -> TargetScore:
    """A target's score. ValueError or TypeError for values on which a report would fail later."""
    score = TargetScore.of(tree)
    numbers = [score.return_mean, score.return_std, *score.returns, *score.lengths]
    numbers += [n for n in (score.target, score.normalized_score) if n is not None]
    if score.interval_95 is not None:
        low, high = score.interval_95
        numbers += [low, high]
    if not all(is_number(n) for n in numbers):
        raise ValueError("a return, a score or an interval is no finite number")
    if not type(score.seed) is type(score.episodes) is int:
        raise ValueError("a seed or a number of episodes is no whole number")
    return score


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number, not so large that sums of it overflow."""
    return type(value) in (int, float) and abs(value) < 1e30  # NaN is not


def _records(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of a .jsonl file; [] where it is absent."""
    records = []
    try:
        for line in read_lines(folder / name):
            record = parse_json(line)
            fault = fault_of(record, RECORD)
            if fault or not is_number(record["step"]):
                raise ValueError(fault or "a step is no whole number")
            seconds = record.get("seconds") or 0
            if not is_number(seconds) or seconds < 0:
                raise ValueError("its seconds are no time")
            records.append(record)
    except Absent:
        return []
    except Unreadable as error:
        raise damaged(folder, name, f"it {error.reason}") from error
    except ValueError as error:
        raise damaged(folder, name, error) from error
    return records


def _evaluations(
    folder: Path, scores: Scores, acting: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[int, tuple[float | None, ...]]]]:
    """Evaluations under the scores' protocol; with those that are a part of it; and (update,
    targets) of those at other targets.

    Evaluations are parsed and in the order of updates. A run that was resumed with another protocol
    holds evaluations of both, which must not be mixed.
    """
    first = scores.targets[0]
    own_targets = [t.target for t in scores.targets]
    ours = (scores.env_id, acting, own_targets, first.episodes, first.seed)
    found: dict[int, dict[str, Any]] = {}
    parts: dict[int, dict[str, Any]] = {}  # of fewer episodes, at the first target
    others = []
    for record in _records(folder, "evaluations.jsonl"):
        try:
            targets = [_target(target) for target in record["targets"]]
            fault = fault_of(record["protocol"], ACTING)
            if fault:
                raise ValueError(f"protocol: {fault}")
            how = (record["protocol"]["env_id"], _acting(record["protocol"]))
            theirs = (*how, [t.target for t in targets], targets[0].episodes, targets[0].seed)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise damaged(folder, "evaluations.jsonl", error) from error
        step, seconds = record["step"], record.get("seconds")
        evaluated = {"step": step, "seconds": seconds, "targets": targets}
        if theirs == ours:
            found[step] = evaluated
        elif (*how, theirs[2], theirs[4]) == (*ours[:2], own_targets[:1], first.seed):
            parts[step] = evaluated
        if theirs[2] != own_targets:
            others.append((step, tuple(theirs[2])))
    curve = parts | found
    return [found[step] for step in sorted(found)], [curve[step] for step in sorted(curve)], others
