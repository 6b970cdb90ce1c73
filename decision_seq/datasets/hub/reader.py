"""Reader of Parquet files with one trajectory per row, as the Decision Transformer sets on the Hub.

| column | type | |
|---|---|---|
| observations | list of lists of numbers | [T, S], or [T + 1, S] with the final observation |
| actions | list of lists of floats, or list of integers | [T, A] continuous, [T] discrete |
| rewards | list of numbers | [T] |
| terminated, truncated | bool | how the episode ended, as written by our own export |
| dones | list of bool | instead of these two, see below |
| final_observation | list of numbers | optional, the observation after the last step |

`dones` does not distinguish an end by the environment from one by a time limit. An episode as long
as the task's step limit counts as `truncated`. Any other episode whose last step is done counts as
`terminated`. A shorter one without a done step has no end.

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
from decision_seq.datasets.d4rl import layout
from decision_seq.datasets.hub import columns as hub_columns
from decision_seq.datasets.hub.columns import FACTS_FILE, FETCHED_FILE
from decision_seq.datasets.store import EpisodeStore, StoreWriter, source_files, task_entries
from decision_seq.reading import Absent, Unreadable, read_json
from decision_seq.types import Episode, Reporter, UserError

ROWS_AT_ONCE = 32  # episodes decoded together
REQUIRED = ("observations", "actions", "rewards")
ENDS = ("terminated", "truncated")
OPTIONAL = (*ENDS, "dones", "final_observation")


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
    task: dict[str, Any] | None = None
    with reporter.bar(f"read {parquet.path.name}", "episodes", total) as bar:
        for file, (names, _) in zip(parquet.files, columns, strict=True):
            for batch in _batches(file, names):
                arrays = hub_columns.decode(batch, file, parquet.facts.get("observation_shape"))
                task = task or _task(parquet, arrays)
                for row in range(batch.num_rows):
                    writer.append(_episode(arrays, row, task["max_episode_steps"]))
                bar.update(batch.num_rows)
    transitions = sum(writer.lengths)
    declared = parquet.facts.get("transitions", transitions)
    if declared != transitions:
        raise UserError(
            f"{parquet.path} holds {transitions} transitions, its {FACTS_FILE} says {declared}; a"
            " file is missing, fetch it again"
        )
    source = _source(parquet)
    source["ignored_columns"] = _ignored(parquet, reporter)
    exact = "dones" not in columns[0][0]
    return writer.finish(
        parquet.facts.get("name") or _name(parquet),
        source,
        **(task or {}),
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
            found, rows = opened.schema_arrow.names, opened.metadata.num_rows
            layout.refuse_bomb(file.stat().st_size, _decoded_bytes(opened.metadata))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is no Parquet file, or is cut short; fetch it again") from error
    listed = ", ".join(found) or "nothing"
    for name in REQUIRED:
        if name not in found:
            raise UserError(
                f"{file} has no column {name!r} (it holds {listed}); one trajectory a row is needed"
            )
    if not set(ENDS) <= set(found) and "dones" not in found:
        raise UserError(f"{file} has neither 'dones' nor {ENDS} (it holds {listed})")
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise UserError(f"{file} has the column {twice[0]!r} twice")
    names = [name for name in (*REQUIRED, *OPTIONAL) if name in found]
    if set(ENDS) <= set(found) and "dones" in found:
        names.remove("dones")  # the two flags are more precise
    return names, rows


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


def _episode(arrays: dict[str, list[Any]], row: int, limit: int | None) -> Episode:
    observations, actions, rewards = (arrays[name][row] for name in REQUIRED)
    if "final_observation" in arrays:
        observations = np.concatenate([observations, arrays["final_observation"][row][None]])
    if "dones" not in arrays:
        return Episode(observations, actions, rewards, *(bool(arrays[n][row]) for n in ENDS))
    dones = arrays["dones"][row]
    if len(dones) != len(rewards):
        raise UserError(f"{len(dones)} dones of {len(rewards)} rewards do not belong together")
    if dones[:-1].any():
        raise UserError(
            f"a row is done at step {int(dones.argmax())} of {len(dones)}; one trajectory a row is"
            " needed"
        )
    truncated = len(rewards) == limit
    terminated = len(dones) > 0 and bool(dones[-1]) and not truncated
    return Episode(observations, actions, rewards, terminated, truncated)


def _task(parquet: _Parquet, arrays: dict[str, list[Any]]) -> dict[str, Any]:
    """The header's entries on the task: from our export's facts, else by name, else by sizes."""
    if parquet.facts:
        return {key: parquet.facts[key] for key in ("env_id", "family", "max_episode_steps")}
    first, actions = arrays["observations"][0], arrays["actions"][0]
    sizes = int(np.prod(first.shape[1:])), int(actions.shape[1]) if actions.ndim == 2 else 0
    return task_entries.task(_name(parquet), *sizes)


def _name(parquet: _Parquet) -> str:
    """The name of the Hub's configuration (D4RL's name in these sets), else the path's own name."""
    fetched = parquet.fetched
    return str(fetched.get("config") or fetched.get("repo") or envs.canonical(parquet.path.stem))


def _ignored(parquet: _Parquet, reporter: Reporter) -> list[str]:
    import pyarrow.parquet

    found: set[str] = set()
    for file in parquet.files:
        found |= set(pyarrow.parquet.read_schema(file).names)
    ignored = sorted(found - {*REQUIRED, *OPTIONAL})
    if ignored:
        reporter.say(f"{parquet.path.name}: columns not read: {', '.join(ignored)}")
    return ignored


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
