"""EpisodeStore: flat, memory-mapped columns and the offsets of the episodes.

episode_store.py   a store, open; writer.py: one written, episode by episode
header.py          what a store says of itself; validate.py: which episodes are refused
column.py          columns of numbers; frames.py: columns of images
root.py            the folder that holds the stores; task_entries.py: the task of a dataset
source_files.py    the files that a store is made of: checksums, sizes, times of change
"""

from decision_seq.datasets.store.column import Column
from decision_seq.datasets.store.episode_store import EpisodeStore
from decision_seq.datasets.store.writer import StoreWriter

__all__ = ["Column", "EpisodeStore", "StoreWriter"]
