"""The labels of a store: computed once and stored beside it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import sys
from pathlib import Path

import numpy as np

from decision_seq.config import to_tree
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.datasets.store.root import store_root
from decision_seq.machine.files import replacing
from decision_seq.sequences.conditioning.base import Conditioning
from decision_seq.types import UserError


def label(store: EpisodeStore, conditioning: Conditioning) -> Column:
    """The conditions of every transition, [N, C], computed once and cached in the store's folder.

    UserError where the store's folder cannot be written.
    """
    shape = (store.num_transitions, conditioning.size)
    if conditioning.size == 0:  # empty: nothing to cache or memory-map
        return Column(np.empty(shape, np.float32))
    name = f"conditions-{_key(store, conditioning)}.npy"
    for folder in (store.path, _folder_elsewhere(store)):
        with contextlib.suppress(OSError, ValueError, EOFError):  # absent, or cut short
            cached = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            if cached.shape == shape and cached.dtype == np.float32:
                return Column(cached)
    folder = store.path if os.access(store.path, os.W_OK) else _folder_elsewhere(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as partial:
            array = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
            conditioning.relabel_store(store, array)
            array.flush()
    except OSError as error:
        raise UserError(f"cannot save the labels in {folder}: {error.strerror}") from error
    return Column(np.load(folder / name, mmap_mode="r", allow_pickle=False))


def _folder_elsewhere(store: EpisodeStore) -> Path:
    """The folder for the labels of a store on a read-only disk."""
    key = hashlib.sha256(str(store.path.resolve()).encode() + store.checksum.encode()).hexdigest()
    return store_root() / f"labels-{key[:12]}"


def _key(store: EpisodeStore, conditioning: Conditioning) -> str:
    """Cache key of the labels: a hash of the data, the settings and the code that computes them.

    The folder is not enough, because its data may be presented with other rewards (`transforms`).
    The code is included so that cached labels are not used after an edit of `relabel`.
    """
    digest = hashlib.sha256(store.checksum.encode())
    digest.update(type(conditioning).__name__.encode())
    digest.update(json.dumps(to_tree(conditioning.labelling), sort_keys=True).encode())
    for module in {cls.__module__ for cls in type(conditioning).__mro__} - {"builtins"}:
        if not module.startswith("draccus"):
            digest.update(inspect.getsource(sys.modules[module]).encode())
    return digest.hexdigest()[:12]
