"""A reader of CSV files with the columns o0, o1, ..., a0, a1, ..., reward and episode."""

import csv
from itertools import groupby

import numpy as np

from decision_seq import Episode, UserError, register
from decision_seq.datasets.store import StoreWriter


@register("reader", ".csv")
def read(path, output, reporter):
    """Write the file's episodes into a store at `output`, and return it."""
    with open(path, newline="") as file, StoreWriter(output) as writer:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        seen = [name for name in columns if name[0] == "o"]
        acted = [name for name in columns if name[0] == "a"]
        if not seen or not acted or not {"reward", "episode"} <= set(columns):
            raise UserError(f"{path}: its first line must name o0, ..., a0, ..., reward, episode")
        for _, steps in groupby(rows, key=lambda row: row["episode"]):
            table = [[float(row[name]) for name in (*seen, *acted, "reward")] for row in steps]
            values = np.array(table, np.float32)
            ends = np.cumsum([len(seen), len(acted)])
            observations, actions, rewards = np.split(values, ends, 1)
            writer.append(Episode(observations, actions, rewards[:, 0], False, True))
        return writer.finish(
            path.stem,
            {"kind": "csv", "description": f"CSV file {path.name}"},
            env_id=None,
            family=None,
            max_episode_steps=None,
            transitions_in=sum(writer.lengths),
            has_timeouts=True,
        )
