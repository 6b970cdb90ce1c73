"""Reader of Parquet files with one trajectory per row, as the Decision Transformer sets on the Hub.

| column | type | |
|---|---|---|
| observations | list of lists of numbers | [T, S], or [T + 1, S] with the final observation |
| actions | list of lists of numbers, or list of numbers | see `action_forms` |
| rewards | list of numbers | [T] |
| terminated, truncated | bool, or list of bool | how the episode ended |
| dones | bool, or list of bool | instead of these two, see below |
| final_observation | list of numbers | optional, the observation after the last step |

Other names of these columns are those of `step_columns`. `dones` does not distinguish an end by the
environment from one by a time limit. An episode as long as the task's step limit counts as
`truncated`. Any other episode whose last step is done counts as `terminated`. A shorter one without
a done step has no end.

Files are read in batches of rows. Numbers are copied from Arrow's buffers to numpy's without Python
objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.datasets import action_forms, other_layouts, step_columns
from decision_seq.datasets.d4rl import layout
from decision_seq.datasets.hub import columns as hub_columns
from decision_seq.datasets.hub.columns import FACTS_FILE, FETCHED_FILE
from decision_seq.datasets.store import EpisodeStore, StoreWriter, source_files, task_entries
from decision_seq.reading import Absent, Unreadable, read_json
from decision_seq.types import Episode, Reporter, UserError

ROWS_AT_ONCE = 32  # episodes decoded together
FINAL = hub_columns.FINAL


@dataclass(frozen=True)
class _Parquet:
    """Files to read, in order, and the JSON files beside them."""

    path: Path
    files: list[Path]
    facts: dict[str, Any]  # content of FACTS_FILE, or empty
    fetched: dict[str, Any]  # content of FETCHED_FILE, or empty


def read(path: Path, output: Path, reporter: Reporter | None = None) -> EpisodeStore:
    """Read a `.parquet` file, or a folder's files in the order of their names, into a store."""
    import pyarrow

    reporter = reporter or Reporter()
    parquet = _find(path)
    try:
        with StoreWriter(output) as writer:
            return _read(parquet, writer, reporter)
    except (pyarrow.ArrowException, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}); fetch it again") from error
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from error


def _read(parquet: _Parquet, writer: StoreWriter, reporter: Reporter) -> EpisodeStore:
    columns = [_columns(file) for file in parquet.files]
    total = sum(count for _, count in columns)
    task: _Task | None = None
    exact = True
    with reporter.bar(f"read {parquet.path.name}", "episodes", total) as bar:
        for file, (names, _) in zip(parquet.files, columns, strict=True):
            for batch in _batches(file, names):
                arrays = hub_columns.decode(batch, file, parquet.facts.get("observation_shape"))
                task = task or _task(parquet, arrays)
                for row in range(batch.num_rows):
                    given = {name: values[row] for name, values in arrays.items()}
                    episode, told = _episode(given, task)
                    writer.append(episode)
                    exact = exact and told
                bar.update(batch.num_rows)
    transitions = sum(writer.lengths)
    declared = parquet.facts.get("transitions", transitions)
    if declared != transitions:
        raise UserError(
            f"{parquet.path} holds {transitions} transitions, its {FACTS_FILE} says {declared}; a"
            " file is missing, fetch it again"
        )
    source = _source(parquet)
    source["ignored_columns"] = _ignored(parquet, {name for names, _ in columns for name in names})
    source["notes"] = [
        line
        for line in (
            *(task.notes if task else ()),
            step_columns.unread_note(source["ignored_columns"]),
        )
        if line
    ]
    return writer.finish(
        parquet.facts.get("name") or _name(parquet),
        source,
        **(task.entries if task else {}),
        transitions_in=transitions,
        has_timeouts=parquet.facts.get("has_timeouts", exact),
        reference_scores=parquet.facts.get("reference_scores"),
    )


def _find(path: Path) -> _Parquet:
    if path.is_dir():
        files = source_files.visible(path, "**/*.parquet")
        if not files:
            raise UserError(f"{path} holds no .parquet file; give a folder that does")
    else:
        source_files.require_file(path, "a .parquet file or a folder of them")
        files = [path]
    for file in files:
        source_files.require_file(file, "a .parquet file")
    folder = path if path.is_dir() else path.parent
    # For a single shard of an export the facts are not used: they describe all shards.
    facts = _facts(folder / FACTS_FILE) if path.is_dir() else {}
    fetched = _table(folder / FETCHED_FILE) if path.is_dir() else {}
    return _Parquet(path, files, facts, fetched)


def _table(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except Absent:
        return {}
    except Unreadable as error:
        raise UserError(f"{error}; make the folder again") from error


def _facts(file: Path) -> dict[str, Any]:
    """The facts that our export wrote, or empty; UserError if they have the wrong types."""
    facts = _table(file)
    kinds: dict[str, Any] = {
        "name": str,
        "env_id": (str, type(None)),
        "family": (str, type(None)),
        "max_episode_steps": (int, type(None)),
        "transitions": int,
        "observation_shape": list,
        "has_timeouts": bool,
        "reference_scores": (list, type(None)),
        "source": dict,
    }
    for key, kind in kinds.items() if facts else ():
        if key not in facts or not isinstance(facts[key], kind):
            raise UserError(f"{file}: {key} is {facts.get(key)!r}; write the folder again")
    if facts and not all(type(n) is int and n > 0 for n in facts["observation_shape"]):
        raise UserError(f"{file}: observation_shape is no shape; write the folder again")
    if facts and facts["family"] not in (None, *envs.FACTS):
        raise UserError(f"{file}: no family {facts['family']!r} is known; write the folder again")
    return facts


def _columns(file: Path) -> tuple[list[str], int]:
    """The columns to read and the number of rows; UserError if a required column is missing."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
            found = schema.names
            layout.refuse_bomb(file.stat().st_size, _decoded_bytes(opened.metadata))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is no Parquet file, or is cut short; fetch it again") from error
    listed = step_columns.listed(found)
    roles = step_columns.roles(found)
    missing = step_columns.missing(roles)
    if missing == "terminals":
        raise UserError(f"{file} has neither 'dones' nor 'terminated' (it holds {listed})")
    if missing:
        raise UserError(
            f"{file} has no column {missing!r} (it holds {listed}); one trajectory a row is needed"
        )
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise UserError(f"{file} has the column {twice[0]!r} twice")
    rewarded = schema.field(roles["rewards"][0]).type
    if not hub_columns.is_list(rewarded):
        raise UserError(f"{file} {other_layouts.STEP_A_ROW}")
    chosen = [n for role, names in roles.items() if role != "next_observations" for n in names]
    return [*chosen, *({FINAL} & {*found})], rows


def _decoded_bytes(metadata: Any) -> int:
    """A lower bound of the decoded size: a repeated number takes hardly any space in a file."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return sum(4 * g.column(i).num_values for g in groups for i in range(g.num_columns))


def _batches(file: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
        try:
            yield from opened.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False)
        except OSError as error:
            raise UserError(f"{file} is damaged ({error}); fetch it again") from error


@dataclass(frozen=True)
class _Task:
    """What the first rows and the file's name say of all."""

    entries: dict[str, Any]  # the header's entries on the task
    form: action_forms.Form
    notes: tuple[str | None, ...]

    @property
    def limit(self) -> int | None:
        """The time limit in steps."""
        return self.entries["max_episode_steps"]


def _episode(arrays: dict[str, np.ndarray], task: _Task) -> tuple[Episode, bool]:
    """The episode of a row, and whether its kind of end is known."""
    roles = step_columns.roles(arrays)
    observations, actions, rewards = (arrays[roles[role][0]] for role in step_columns.DATA)
    if FINAL in arrays:
        observations = np.concatenate([observations, arrays[FINAL][None]])
    names = [name for role in step_columns.FLAGS for name in roles.get(role, [])]
    flags = {name: np.atleast_1d(arrays[name]) for name in names}
    *ended, exact = step_columns.last_step(flags, len(rewards), task.limit)
    return Episode(observations, task.form.apply(actions), rewards, *ended), exact


def _task(parquet: _Parquet, arrays: dict[str, list[Any]]) -> _Task:
    """The header's entries on the task, from our export's facts or else by name; and the form of
    the actions."""
    roles = step_columns.roles(arrays)
    first, (acted,) = arrays[roles["observations"][0]][0], roles["actions"]
    actions = arrays[acted][0]
    form = action_forms.form_of(actions, lambda: _actions(parquet, acted))
    if parquet.facts:
        keys = ("env_id", "family", "max_episode_steps")
        return _Task({key: parquet.facts[key] for key in keys}, form, (form.note,))
    sizes = int(np.prod(first.shape[1:])), int(actions.shape[1]) if actions.ndim == 2 else 0
    note = task_entries.task_note(_name(parquet), *sizes)
    return _Task(task_entries.task(_name(parquet), *sizes), form, (note, form.note))


def _actions(parquet: _Parquet, name: str) -> Iterator[np.ndarray]:
    """The actions of all episodes."""
    for file in parquet.files:
        for batch in _batches(file, [name]):
            yield from hub_columns.decode(batch, file, None)[name]


def _name(parquet: _Parquet) -> str:
    """The name of the Hub's configuration (D4RL's name in these sets), else the path's own name."""
    fetched = parquet.fetched
    return str(fetched.get("config") or fetched.get("repo") or envs.canonical(parquet.path.stem))


def _ignored(parquet: _Parquet, read: set[str]) -> list[str]:
    """The names of the columns that are not read."""
    import pyarrow.parquet

    found: set[str] = set()
    for file in parquet.files:
        found |= set(pyarrow.parquet.read_schema(file).names)
    return sorted(found - read)


def _source(parquet: _Parquet) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in parquet.files:
        digest.update(f"{file.name} {source_files.sha256(file)}\n".encode())
    what = f"Parquet {parquet.path.name}"
    if parquet.fetched:
        names = [parquet.fetched.get(key) for key in ("repo", "config")]
        what = f"Hugging Face dataset {':'.join(str(name) for name in names if name)}"
    elif parquet.facts:
        what += f" written from: {parquet.facts['source'].get('description')}"
    return {
        "kind": "parquet",
        "description": f"{what}, sha256 {digest.hexdigest()[:12]}",
        "path": str(parquet.path.resolve()),
        "sha256": digest.hexdigest(),
        "files": len(parquet.files),
        "fetched": parquet.fetched or None,
        "origin": parquet.facts.get("source"),
    }
