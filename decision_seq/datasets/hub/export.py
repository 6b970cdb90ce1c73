"""Export of a store to Parquet files with one trajectory per row; reads back bit for bit.

    data/train-00000-of-00002.parquet ...   the Hub's layout, which `datasets` finds
    decision_seq.json                       facts of the header that have no column

Rows hold observations [T, S] and actions as lists, rewards in double precision, `terminated`,
`truncated` and, if the store has it, `final_observation`. Frames are written flat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.datasets.hub.columns import FACTS_FILE
from decision_seq.datasets.store import EpisodeStore
from decision_seq.machine.files import rename_new, temporary_folder
from decision_seq.types import Reporter, UserError

ROW_GROUP_BYTES = 16 << 20  # a reader holds one row group in memory
SHARD_BYTES = 256 << 20
FACTS = ("name", "source", "env_id", "family", "max_episode_steps", "has_timeouts")


def write(store: EpisodeStore, output: Path, reporter: Reporter | None = None) -> None:
    """Write the folder `output`, which must not exist; it appears when it is complete."""
    reporter = reporter or Reporter()
    if output.exists():
        raise UserError(f"{output} exists; delete it, or write to another folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(output.parent) as folder:
            partial = folder / "set"
            (partial / "data").mkdir(parents=True)
            _write_shards(store, partial / "data", reporter)
            (partial / FACTS_FILE).write_text(json.dumps(_facts(store), indent=1), encoding="utf-8")
            rename_new(partial, output)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(f"cannot write {output}: {reason}; give another folder") from error


def _facts(store: EpisodeStore) -> dict[str, Any]:
    header = store.header
    facts = {key: header[key] for key in FACTS if key in header}
    return {
        "format": 1,
        "has_timeouts": True,
        **facts,
        "reference_scores": header.get("reference_scores"),
        "episodes": store.num_episodes,
        "transitions": store.num_transitions,
        "observation_shape": header["columns"]["observations"]["shape"][1:],
    }


def _write_shards(store: EpisodeStore, folder: Path, reporter: Reporter) -> None:
    import pyarrow.parquet

    shards: list[Path] = []
    writer: Any = None
    written = 0
    try:
        with reporter.bar(f"write {store.name}", "steps", store.num_transitions) as bar:
            for first, last in _groups(store):
                table = _table(store, first, last)
                if writer is None or written + table.nbytes > SHARD_BYTES:
                    if writer is not None:
                        writer.close()
                    shards.append(folder / f"{len(shards)}.parquet")
                    # no dictionary, because the numbers hardly repeat
                    writer = pyarrow.parquet.ParquetWriter(
                        shards[-1], table.schema, compression="zstd", use_dictionary=False
                    )
                    written = 0
                writer.write_table(table, row_group_size=len(table))
                written += table.nbytes
                bar.update(int(store.offsets[last] - store.offsets[first]))
    finally:
        if writer is not None:
            writer.close()
    for index, shard in enumerate(shards):
        shard.rename(folder / f"train-{index:05d}-of-{len(shards):05d}.parquet")


def _groups(store: EpisodeStore) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive episodes of about ROW_GROUP_BYTES, at least one each."""
    row = sum(store.columns[name].array[:1].nbytes for name in ("observations", "actions")) + 8
    first = 0
    while first < store.num_episodes:
        limit = store.offsets[first] + ROW_GROUP_BYTES // row
        last = int(np.searchsorted(store.offsets, limit, "right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _table(store: EpisodeStore, first: int, last: int) -> Any:
    """Episodes `first` to `last - 1` as rows of a table."""
    import pyarrow as pa

    rows = slice(store.offsets[first], store.offsets[last])
    offsets = pa.array((store.offsets[first : last + 1] - store.offsets[first]).astype(np.int32))

    def lists(values: Any) -> Any:
        return pa.ListArray.from_arrays(offsets, values)

    columns = {
        name: column.array[rows]
        for name, column in store.columns.items()
        if name != "final_observations"
    }
    actions = columns["actions"]
    table = {
        "observations": lists(_vectors(columns["observations"])),
        "actions": lists(pa.array(actions) if actions.ndim == 1 else _vectors(actions)),
        "rewards": lists(pa.array(columns["rewards"])),
        "terminated": pa.array(store.terminated[first:last]),
        "truncated": pa.array(store.truncated[first:last]),
    }
    if "final_observations" in store.columns:
        final = store.columns["final_observations"].array[first:last]
        table["final_observation"] = _vectors(final)
    return pa.table(table)


def _vectors(array: np.ndarray) -> Any:
    """An array [N, ...] as N lists of fixed size."""
    import pyarrow as pa

    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
