"""Catalog for `data list`: the named datasets, their contents, and whether they are local."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decision_seq import envs
from decision_seq.datasets.collected import bundled, bundled_atari
from decision_seq.datasets.d4rl import reader as d4rl
from decision_seq.datasets.minari import files as minari_files
from decision_seq.datasets.minari import remote as minari_remote
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.root import store_root
from decision_seq.datasets.store.source_files import visible
from decision_seq.formatting import number_text
from decision_seq.types import UserError

Stores = dict[str, EpisodeStore]  # path of the source -> store
COLUMNS = ("name", "source", "environment", "size", "episodes", "return", "normalized", "here")


def catalog(source: str | None = None) -> list[dict[str, Any]]:
    """One row per dataset; None for what is unknown until the dataset is local."""
    known = _known_stores()
    rows = {
        "bundled": _bundled(),
        "atari": _atari(),
        "d4rl": _d4rl(known),
        "minari": _minari(known),
        "store": _stores(known),
    }
    chosen = [rows[source]] if source else rows.values()
    return [{column: row.get(column) for column in COLUMNS} for part in chosen for row in part]


def _scores(references: tuple[float, float] | None, mean: float) -> dict[str, Any]:
    normalized = number_text(envs.normalize(mean, references), group="") if references else None
    return {"return": number_text(mean, group=""), "normalized": normalized}


def _bundled() -> Iterator[dict[str, Any]]:
    for name, recipe in bundled.bundled().items():
        found = envs.facts_by_name(name)
        made = store_root() / bundled.store_name(name, recipe.size, 0)
        yield {
            "name": f"bundled/{name}",
            "source": "collected here, not D4RL's data",
            "environment": recipe.env_id,
            "size": f"{recipe.size.count:,} {recipe.size.unit}s",
            "episodes": recipe.episodes,
            **_scores(found[1].reference_scores if found else None, recipe.return_mean),
            "here": "yes" if made.is_dir() else "made on first use",
        }


def _atari() -> Iterator[dict[str, Any]]:
    size = bundled_atari.DEFAULT_SIZE
    for name, played in bundled_atari.COLLECTIONS.items():
        here = envs.missing_extra(played.env_id)
        if here is None:
            made = store_root() / bundled_atari.store_name(name, size, 0)
            here = "yes" if made.is_dir() else "made on first use"
        found = envs.facts_by_name(played.env_id)
        scores = _scores(found[1].reference_scores if found else None, played.return_mean)
        yield {
            "name": f"atari/{name}",
            "source": "collected here, not DQN-replay's data",
            "environment": played.env_id,
            "size": f"{size.count:,} steps",
            "episodes": played.episodes,
            **scores,
            "return": f"{scores['return']} ± {number_text(played.return_std, group='')}",
            "here": here,
        }


def _d4rl(known: Stores) -> Iterator[dict[str, Any]]:
    for name, file in d4rl.published().items():
        path = d4rl.find_file(name)
        found = envs.facts_by_name(name)
        store = known.get(str(path.resolve())) if path else None
        yield {
            "name": f"d4rl/{name}",
            "source": "D4RL",
            "environment": found[1].env_id if found else None,
            "size": f"{file.bytes / 1e6:.0f} MB" if file.bytes else None,
            **({} if store is None else _counted(store)),
            "here": "yes" if path else "to fetch",
        }


def _minari(known: Stores) -> Iterator[dict[str, Any]]:
    """Rows of the local Minari datasets; remote ones are not queried."""
    for root in minari_remote.roots(store_root() / "minari"):
        for file in visible(root, "**/data/metadata.json"):
            try:
                facts = minari_files.read_metadata(file.parent.parent)
            except UserError:
                facts = {}  # `data inspect` reports the error
            store = known.get(str(file.parent.parent.resolve()))
            yield {
                "name": f"minari/{file.parent.parent.relative_to(root)}",
                "source": "Minari",
                "size": f"{facts['total_steps']:,} steps" if facts else None,
                "episodes": facts.get("total_episodes"),
                **({} if store is None else _counted(store)),
                "here": "yes",
            }


def _stores(known: Stores) -> Iterator[dict[str, Any]]:
    """Rows of the stores made from files, folders and joins."""
    for path, store in known.items():
        if store.header["source"].get("kind") != "bundled":
            yield {
                "name": path,
                "source": store.header["source"].get("kind"),
                **_counted(store),
                "here": "yes",
            }


def _counted(store: EpisodeStore) -> dict[str, Any]:
    return {
        "environment": store.header["env_id"],
        "size": f"{store.num_transitions:,} steps",
        "episodes": store.num_episodes,
        **_scores(store.reference_scores, store.header["statistics"]["return_mean"]),
    }


def _known_stores() -> Stores:
    """The valid stores in the store folder."""
    stores: Stores = {}
    for folder in sorted(store_root().glob("*")):
        try:
            store = EpisodeStore.open(folder)
        except UserError:
            continue  # not a store, or a damaged one that is rebuilt when it is opened next
        stores[str(store.header["source"].get("path", folder))] = store
    return stores
