"""Layouts that are not read, and for each the line of Python that converts it."""

from __future__ import annotations

from collections.abc import Iterable

D3RLPY = (
    "it holds d3rlpy's episodes; save them: pickle.dump([dict(observations=e.observations,"
    " actions=e.actions, rewards=e.rewards, terminals=[0] * (len(e.rewards) - 1) + [e.terminated],"
    " timeouts=[0] * (len(e.rewards) - 1) + [not e.terminated]) for e in dataset.episodes],"
    " open('x.pkl', 'wb'))"
)
ROBOMIMIC = (
    "it holds demonstrations in groups, as robomimic's files do; save them: pickle.dump(["
    "dict(observations=numpy.concatenate([d['obs'][k][:] for k in KEYS], 1),"
    " actions=d['actions'][:], rewards=d['rewards'][:], dones=d['dones'][:])"
    " for d in h5py.File(PATH)['data'].values()], open('x.pkl', 'wb'))"
)
SAVED_TO_DISK = (
    "is a folder of save_to_disk; write its trajectories, one a row:"
    " datasets.load_from_disk(PATH).to_parquet('x.parquet')"
)
STEP_A_ROW = (
    "holds one step a row, and one trajectory a row is needed; join the steps of each:"
    " pandas.read_parquet(PATH).groupby('episode').agg(list).to_parquet('x.parquet')"
)
# Files of which a folder of save_to_disk, or each of its splits, holds both.
SAVED_FILES = ("state.json", "dataset_info.json")


def way_out(names: Iterable[str]) -> str | None:
    """How to convert an HDF5 file whose top holds these names; None if its layout is unknown."""
    found = {*names}
    if "observations_0" in found:
        return D3RLPY
    return ROBOMIMIC if "data" in found else None
