"""Dataset report for `data inspect`: the contents of a dataset, and its faults.

Everything is computed from the store's columns, block by block.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from decision_seq.datasets.store import Column, EpisodeStore
from decision_seq.datasets.store.column import StoreDamaged
from decision_seq.datasets.store.episode_store import STEP_COLUMNS
from decision_seq.envs import make, normalize
from decision_seq.types import Reporter, UserError

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
SUGGESTED = (1.0, 0.9, 0.5)  # quantiles of the returns that are suggested as targets
BINS = 20
BLOCK_ROWS, BLOCK_BYTES = 262_144, 64 << 20  # largest block


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    check: str
    """Name of the check."""
    level: Literal["ok", "note", "warning"]
    """`ok`, `note` for information, or `warning` if action is needed."""
    detail: str
    """The result in words and numbers."""


def inspect(store: EpisodeStore, reporter: Reporter | None = None) -> dict[str, Any]:
    """Report on a store as plain values: counts, ranges, returns and findings."""
    header = store.header
    # Returns of clipped rewards are not scores.
    references = None if store.clipped else store.reference_scores
    returns, lengths = store.returns, store.lengths
    normalized = normalize(returns, references) if references else None
    counts, edges = _histogram(returns)
    scan = _scan(store, reporter or Reporter())
    return {
        "name": store.name,
        "source": header["source"],
        "environment": header["env_id"],
        "stack": store.stack,
        "transitions_in": header["transitions_in"],
        "transitions_out": store.num_transitions,
        "episodes": store.num_episodes,
        "terminated": int(store.terminated.sum()),
        "truncated": int(store.truncated.sum()),
        "without_end": int((~store.terminated & ~store.truncated).sum()),
        "length": {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
        "return": {"mean": float(returns.mean()), "std": float(returns.std())},
        "return_quantiles": _quantiles(returns, QUANTILES),
        "return_histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "first_returns": [float(value) for value in returns[:5]],
        "normalized": None
        if normalized is None
        else {"mean": float(np.mean(normalized)), "best": float(np.max(normalized))},
        "suggested_targets": list(_quantiles(returns, SUGGESTED).values()),
        "columns": {
            name: {
                "shape": list(column.shape),
                "dtype": str(column.dtype),
                "min": float(scan.low[name]),
                "max": float(scan.high[name]),
            }
            for name, column in store.columns.items()
        },
        "findings": [asdict(finding) for finding in _findings(store, scan)],
        "bytes": sum(file.stat().st_size for file in store.path.iterdir()),
        "checksum": store.checksum,
        "store": str(store.path),
    }


def _histogram(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        return np.histogram(returns, BINS)
    except ValueError:  # the range is too small or too large for bins of finite width
        return np.array([len(returns)]), np.array([returns.min(), returns.max()])


def _quantiles(values: np.ndarray, at: tuple[float, ...]) -> dict[str, float]:
    return {f"{q:g}": float(v) for q, v in zip(at, np.quantile(values, at), strict=True)}


@dataclass
class _Scan:
    """Results of one pass over the columns."""

    low: dict[str, float]  # column -> smallest value
    high: dict[str, float]  # column -> largest value
    constant: np.ndarray  # [S] True for observation entries that never change
    not_finite: int
    repeated: int  # transitions equal to the one before them in their episode


def _scan(store: EpisodeStore, reporter: Reporter) -> _Scan:
    columns = store.columns
    scan = _Scan({}, {}, np.ones(columns["observations"].shape[1:], bool), 0, 0)
    starts = set(store.offsets[:-1].tolist())
    first_observation = columns["observations"].rows(0, 1)
    with reporter.bar(f"inspect {store.name}", "row", store.num_transitions) as bar:
        for start, stop in _blocks(columns["observations"]):
            before = max(start - 1, 0)  # the first row is compared with the one before it
            block = {name: columns[name].rows(before, stop) for name in STEP_COLUMNS}
            for name, array in block.items():
                _update_range(scan, name, array[start - before :])
            scan.constant &= (block["observations"] == first_observation).all(0)
            scan.repeated += _repeated(block, before, starts)
            bar.update(stop - start)
    final = columns.get("final_observations")
    if final is not None:
        for start, stop in _blocks(final):
            _update_range(scan, "final_observations", final.rows(start, stop))
    return scan


def _blocks(column: Column) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of the column's rows, each of bounded size."""
    row = int(np.prod(column.shape[1:])) * column.dtype.itemsize
    size = max(min(BLOCK_ROWS, BLOCK_BYTES // row), 1)
    return ((i, min(i + size, len(column))) for i in range(0, len(column), size))


def _update_range(scan: _Scan, name: str, block: np.ndarray) -> None:
    scan.low[name] = min(scan.low.get(name, np.inf), float(np.nanmin(block)))
    scan.high[name] = max(scan.high.get(name, -np.inf), float(np.nanmax(block)))
    scan.not_finite += int((~np.isfinite(block)).sum())


def _repeated(block: dict[str, np.ndarray], first: int, starts: set[int]) -> int:
    """Count rows equal in observation, action and reward to the row before in their episode.

    block: the columns from row `first` on.
    """
    same = np.ones(len(block["rewards"]) - 1, bool)
    for array in block.values():
        flat = array.reshape(len(array), -1)
        same &= (flat[1:] == flat[:-1]).all(1)
    return sum(int(row) + first + 1 not in starts for row in np.flatnonzero(same))


def _findings(store: EpisodeStore, scan: _Scan) -> Iterator[Finding]:
    yield _checksum(store)
    dropped = store.header["transitions_in"] - store.num_transitions
    yield Finding(
        "transitions in = out",
        "warning" if dropped else "ok",
        f"{dropped:,} are missing" if dropped else f"{store.num_transitions:,}",
    )
    yield Finding(
        "NaN or infinity", "warning" if scan.not_finite else "ok", f"{scan.not_finite:,} values"
    )
    repeated = _share(
        "repeated steps", scan.repeated, store.num_transitions, "equal the step before"
    )
    if store.stack > 1 and scan.repeated:  # an emulator's screen may not change for some steps
        repeated = replace(repeated, level="note")
    yield repeated
    yield _share(
        "repeated episodes", _same_episodes(store), store.num_episodes, "repeat an earlier one"
    )
    constant = int(scan.constant.sum())
    yield Finding(
        "constant observations", "note" if constant else "ok", f"{constant} of {scan.constant.size}"
    )
    yield _actions(store, scan)
    if store.clipped:
        yield Finding("rewards", "note", "cut to [-1, 1]: the returns are not the game's scores")
    yield _ends(store)
    for note in store.notes:
        yield Finding("reading", "note", note)
    limit = store.header["max_episode_steps"]
    over = int((store.lengths > limit).sum()) if limit else 0
    detail = f"{over:,} episodes are longer than {limit}" if over else f"limit {limit or 'unknown'}"
    yield Finding("step limit", "warning" if over else "ok", detail)


def _checksum(store: EpisodeStore) -> Finding:
    """Check that the columns are unchanged and that the header's mean return is theirs."""
    try:
        store.verify()
    except StoreDamaged as error:
        return Finding("checksum", "warning", str(error))
    written = store.header["statistics"].get("return_mean")
    if written is None or not np.isclose(written, store.returns.mean(), rtol=1e-9, atol=1e-9):
        return Finding("checksum", "warning", "the header's mean return is not that of the rewards")
    return Finding("checksum", "ok", "columns and returns are those that were written")


def _share(check: str, count: int, of: int, what: str) -> Finding:
    level: Literal["ok", "note", "warning"] = (
        "ok" if count == 0 else "note" if count < 0.01 * of else "warning"
    )
    return Finding(check, level, f"{count:,} of {of:,} {what}" if count else "none")


def _same_episodes(store: EpisodeStore) -> int:
    """Count episodes that repeat an earlier one: equal actions, rewards and first observation."""
    observations, actions, rewards = (store.columns[name] for name in STEP_COLUMNS)
    seen = set()
    for start, end in itertools.pairwise(store.offsets.tolist()):
        first = observations.rows(start, start + 1)
        digest = hashlib.blake2b(first.tobytes(), digest_size=16)
        digest.update(actions.rows(start, end).tobytes())
        digest.update(rewards.rows(start, end).tobytes())
        seen.add(digest.digest())
    return store.num_episodes - len(seen)


def _actions(store: EpisodeStore, scan: _Scan) -> Finding:
    """Check that the actions lie in the environment's action space."""
    check, env_id = "actions in their space", store.header["env_id"]
    low, high = scan.low["actions"], scan.high["actions"]
    if store.columns["actions"].dtype.kind == "i":
        space = store.action_space
        detail = f"discrete, {low:.0f} to {high:.0f}"
        level: Literal["ok", "warning"] = "ok"
        if space is not None and space.kind == "discrete":
            first = space.first_choice
            detail += f" of {space.size}" + (f" from {first}" if first else "")
            inside = first <= low and high < first + space.size
            level = "ok" if inside else "warning"
        return Finding(check, level, detail)
    bounds: tuple[Any, Any] = (-1.0, 1.0)
    where = "[-1, 1], as the environment is unknown"
    if env_id is not None:
        try:
            env = make(env_id)
            space = env.action_space
            env.close()
            bounds, where = (space.low, space.high), f"{env_id}'s action space"
        except (UserError, AttributeError) as error:
            where = f"[-1, 1] ({error})"
    statistics = store.header["statistics"]
    least, most = np.array(statistics["action_min"]), np.array(statistics["action_max"])
    if np.shape(bounds[0]) not in ((), least.shape):
        detail = f"{env_id} has {np.size(bounds[0])} action dimensions, the data {least.size}"
        return Finding(check, "warning", detail)
    tolerance = 1e-5
    outside = (least < bounds[0] - tolerance) | (most > bounds[1] + tolerance)
    detail = f"{low:.3g} to {high:.3g}; {where}"
    if outside.any():
        detail = f"{int(outside.sum())} of {outside.size} dimensions leave {where}: " + detail
    return Finding(check, "warning" if outside.any() else "ok", detail)


def _ends(store: EpisodeStore) -> Finding:
    tails = int((~store.terminated & ~store.truncated).sum())
    if tails == 0:
        return Finding("episodes without an end", "ok", "none")
    return Finding(
        "episodes without an end",
        "note",
        f"{tails:,} of {store.num_episodes:,}: their returns-to-go are lower bounds;"
        " --unfinished exclude trains without them",
    )
