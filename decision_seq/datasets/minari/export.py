"""Export of a store to a Minari dataset, through Minari's public interface.

Minari's format needs the observation after an episode's last step, which a store may not have. The
last observation is then repeated, and the metadata record it (`decision_seq.final` is `repeated`),
so that reading back drops it. Nothing else is added or changed: an episode without an end reads
back without one.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.datasets.hdf5_files import safe_library
from decision_seq.datasets.minari.files import OWN_KEY
from decision_seq.datasets.store import EpisodeStore
from decision_seq.machine.files import temporary_folder
from decision_seq.types import Reporter, UserError

NAMESPACE = "decision_seq"
BLOCK_BYTES = 32 << 20  # of observations passed to Minari at once


def dataset_id(store: EpisodeStore) -> str:
    """Minari's id of the dataset that `write` writes: `decision_seq/hopper-medium-v2`."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", store.name).strip("-") or "store"
    return f"{NAMESPACE}/{name if re.search(r'-v[0-9]+$', name) else f'{name}-v0'}"


def write(store: EpisodeStore, output: Path, reporter: Reporter | None = None) -> str:
    """Write `output/decision_seq/NAME-vN` and return its id.

    With MINARI_DATASETS_PATH=output, `minari.load_dataset(id)` opens it. The folder may hold other
    datasets; a dataset of the same id is not overwritten.
    """
    reporter = reporter or Reporter()
    name = dataset_id(store)
    if (output / name).exists():
        raise UserError(f"{output / name} exists; delete it, or write to another folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(output.parent) as folder:
            partial = folder / "root"
            partial.mkdir()
            with minari_root(partial), safe_library(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Minari's for authors, Gymnasium's about -v4
                _fill(store, name, reporter)
            _move(partial, output, name)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk by either
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot write {output}: {reason}; give another folder") from error
    return name


@contextmanager
def minari_root(folder: Path) -> Iterator[None]:
    """Set MINARI_DATASETS_PATH, the only way to choose where Minari writes."""
    former = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if former is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = former


def _fill(store: EpisodeStore, name: str, reporter: Reporter) -> None:
    import minari

    dataset: Any = None
    spec, env_actions = _environment(store, reporter)
    with reporter.bar(f"write {name}", "steps", store.num_transitions) as bar:
        for block in _blocks(store):
            if dataset is None:
                dataset = minari.create_dataset_from_buffers(
                    name,
                    block,
                    env=spec,
                    observation_space=_observation_space(store),
                    action_space=_action_space(store, env_actions),
                    author="decision_seq",
                    description=store.source,
                    data_format="hdf5",
                    jpeg_encoding=False,  # JPEG would change every frame
                )
            else:
                dataset.update_dataset_from_buffer(block)
            bar.update(sum(len(buffer) for buffer in block))
    dataset.storage.update_metadata(_metadata(store))


def _blocks(store: EpisodeStore) -> Iterator[list[Any]]:
    """Lists of episodes as Minari's buffers, each with about BLOCK_BYTES of observations."""
    from minari.data_collector import EpisodeBuffer

    block: list[Any] = []
    size = 0
    for episode in store.episodes():
        observations, steps = episode.observations, len(episode)
        if not episode.has_final_observation:
            observations = np.concatenate([observations, observations[-1:]])
        last = np.arange(steps) == steps - 1
        block.append(
            EpisodeBuffer(
                observations=observations,
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=last & episode.terminated,
                truncations=last & episode.truncated,
            )
        )
        size += observations.nbytes
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _metadata(store: EpisodeStore) -> dict[str, Any]:
    header = store.header
    final = "kept" if "final_observations" in store.columns else "repeated"
    own = {"final": final, "description": store.source}
    own |= {key: header[key] for key in ("env_id", "family", "max_episode_steps")}
    metadata: dict[str, Any] = {OWN_KEY: own}
    scores = header.get("reference_scores")
    if scores is None and header["family"] in envs.FACTS:
        scores = envs.FACTS[header["family"]].reference_scores
    if scores is not None:
        metadata |= {"ref_min_score": scores[0], "ref_max_score": scores[1]}
    return metadata


def _observation_space(store: EpisodeStore) -> Any:
    """The space of the stored observations: their dtype, and no bounds.

    The environment's bounds may be wider or narrower than the data.
    """
    from gymnasium.spaces import Box

    column = store.columns["observations"]
    low, high = (0, 255) if column.dtype == np.uint8 else (-np.inf, np.inf)
    return Box(low, high, column.shape[1:], column.dtype.type)


def _action_space(store: EpisodeStore, env_actions: Any) -> Any:
    """The space of the actions; the number of choices is the environment's, else the data's."""
    from gymnasium.spaces import Box, Discrete

    column, known = store.columns["actions"], store.action_space
    if column.dtype.kind == "f":
        if known is not None and known.bounds is not None:
            low, high = known.bounds
            return Box(low.astype(np.float32), high.astype(np.float32))
        return Box(-np.inf, np.inf, column.shape[1:], np.float32)
    if known is not None:
        return Discrete(known.size, start=known.first_choice)
    first = min(int(column.array.min()), 0)
    return Discrete(
        max(int(column.array.max()) + 1 - first, getattr(env_actions, "n", 0)), start=first
    )


def _environment(store: EpisodeStore, reporter: Reporter) -> tuple[Any, Any]:
    """Specification and action space of the environment; None, None if it cannot be made."""
    import gymnasium

    name, _, arguments = (store.header["env_id"] or "").partition("?")
    if not name:
        return None, None
    try:
        env = envs.make(store.header["env_id"])
    except UserError as error:
        reporter.say(f"written without its environment: {error}")
        return None, None
    env.close()
    spec = copy.deepcopy(gymnasium.spec(name))
    spec.kwargs |= json.loads(arguments or "{}")
    spec.max_episode_steps = store.header["max_episode_steps"] or spec.max_episode_steps
    return spec, env.action_space


def _move(partial: Path, output: Path, name: str) -> None:
    """Rename the complete dataset to its place, so that a partial one never has its name."""
    if not output.exists():
        os.replace(partial, output)
        return
    target = output / name
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = Path(NAMESPACE) / "namespace_metadata.json"
    if not (output / facts).exists():
        shutil.move(partial / facts, output / facts)
    os.replace(partial / name, target)
