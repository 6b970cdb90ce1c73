"""Columns of Parquet files as arrays, and the names of the JSON files beside them.

Arrow's lists become one numpy array per episode, without a Python object per number.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.datasets.step_columns import ROLE_OF
from decision_seq.types import UserError

FACTS_FILE = "decision_seq.json"  # header entries, written by our own export
FETCHED_FILE = "hub.json"  # origin of the files, written by `open_remote`
FINAL = "final_observation"
NESTING = {  # accepted depths of a column's lists, by its role
    "observations": (2,),
    "actions": (1, 2),
    "rewards": (1,),
    FINAL: (1,),
}
OF_FLAGS = (0, 1)  # one flag for the trajectory, or one a step


def decode(
    batch: Any, file: Path, observation_shape: list[int] | None
) -> dict[str, list[np.ndarray]]:
    """Decode the columns of a record batch -> name -> one array per row; UserError if malformed.

    observation_shape: the shape of one observation, if it was flattened when written.
    """
    found = {}
    for name in batch.schema.names:
        where = f"{file}: {name}"
        role = ROLE_OF.get(name, name)
        found[name] = _rows(batch.column(name), where, NESTING.get(role, OF_FLAGS))
        if role == "observations" and observation_shape is not None:
            found[name] = [_shaped(rows, observation_shape, where) for rows in found[name]]
        elif role == FINAL and observation_shape is not None:
            found[name] = [_shaped(row[None], observation_shape, where)[0] for row in found[name]]
    return found


def _rows(column: Any, where: str, depths: tuple[int, ...]) -> list[np.ndarray]:
    values, offsets, depth = column, None, 0
    inner = 1  # numbers in one entry of the outer list
    while is_list(values.type):
        _require_no_nulls(values, where)
        depth += 1
        if depth == 1:
            lengths = list_lengths(values)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
        else:
            inner *= _width(list_lengths(values), where)
        values = values.flatten()
    _require_no_nulls(values, where)
    if depth not in depths:
        wanted = " or ".join("a plain value" if d == 0 else f"lists {d} deep" for d in depths)
        raise UserError(f"{where} is {column.type}; {wanted} is needed")
    numbers = _numbers(values, where)
    if offsets is None:
        return [number for number in numbers]
    if depth == 2:
        numbers = numbers.reshape(-1, inner)
    return [numbers[start:end] for start, end in itertools.pairwise(offsets)]


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    import pyarrow.types as types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def list_lengths(lists: Any) -> np.ndarray:
    """[N] the number of entries of each list of an Arrow array."""
    import pyarrow.types as types

    if types.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size)
    return lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)


def _width(lengths: np.ndarray, where: str) -> int:
    """The common length of all inner lists; UserError if they differ."""
    if len(lengths) == 0:
        return 1
    if lengths.min() != lengths.max() or lengths[0] == 0:
        raise UserError(
            f"{where} has vectors of {lengths.min()} to {lengths.max()} numbers; one size, more"
            " than 0, is needed"
        )
    return int(lengths[0])


def _numbers(values: Any, where: str) -> np.ndarray:
    import pyarrow.types as types

    kind = values.type
    if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
        raise UserError(f"{where} holds {kind}, not numbers")
    return values.to_numpy(zero_copy_only=False)


def _require_no_nulls(values: Any, where: str) -> None:
    if values.null_count:
        raise UserError(f"{where} lacks {values.null_count} values; mend the data")


def _shaped(rows: np.ndarray, shape: list[int], where: str) -> np.ndarray:
    if rows.shape[1] != int(np.prod(shape)):
        raise UserError(f"{where} has vectors of {rows.shape[1]} numbers, not {shape}")
    return rows.reshape(-1, *shape)
