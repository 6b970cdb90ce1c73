"""Joined datasets: the episodes of several stores, one after another, in one store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.types import Episode, UserError


def join(name: str, parts: Sequence[EpisodeStore], folder: Path) -> EpisodeStore:
    """A store of all parts in `folder`; UserError unless they are of one task.

    Final observations are retained only if every part has them.
    """
    facts: dict[str, set] = {
        "observation or action size": {
            (p.columns["observations"].shape[1:], p.columns["actions"].shape[1:]) for p in parts
        },
        "frames to an observation": {p.stack for p in parts},
        "actions to choose from": {p.choices for p in parts} - {None},
        "first choice": {p.header.get("first_choice", 0) for p in parts if p.choices},
        "rewards being clipped": {p.clipped for p in parts},
        "task": {p.header["family"] for p in parts} - {None},
        "reference scores": {str(p.header["reference_scores"]) for p in parts},
        "environment": {p.header["env_id"] for p in parts} - {None},
    }
    for what, values in facts.items():
        if len(values) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise UserError(f"{name}: the parts differ in {what} ({listed}); they do not join")
    space = _space(parts)
    identity = json.dumps([part.header for part in parts], sort_keys=True)
    identity += json.dumps(space) if space else ""
    output = folder / f"joined-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    made = EpisodeStore.open_sound(output)
    if made is not None:
        return made
    with StoreWriter(output, parts[0].stack) as writer:
        final = all("final_observations" in part.columns for part in parts)
        for part in parts:
            for episode in part.episodes():
                writer.append(episode if final else _without_final_observation(episode))
        limits = [part.header["max_episode_steps"] for part in parts]
        return writer.finish(
            "+".join(part.name for part in parts),
            {
                "kind": "joined",
                "description": " + ".join(part.source for part in parts),
                "parts": [part.header["source"] for part in parts],
            },
            env_id=next((p.header["env_id"] for p in parts if p.header["env_id"]), None),
            family=next((p.header["family"] for p in parts if p.header["family"]), None),
            reference_scores=parts[0].header["reference_scores"],
            max_episode_steps=max((limit for limit in limits if limit), default=None),
            transitions_in=sum(part.header["transitions_in"] for part in parts),
            has_timeouts=all(part.header["has_timeouts"] for part in parts),
            choices=next((p.choices for p in parts if p.choices), None),
            clipped=parts[0].clipped,
            **space,
        )


def _space(parts: Sequence[EpisodeStore]) -> dict[str, Any]:
    """The header's further entries on the parts' common action space.

    Bounds are kept where all parts have the same.
    """
    first = max((p.header.get("first_choice", 0) for p in parts if p.choices), key=abs, default=0)
    bounds = parts[0].header.get("action_bounds")
    same = all(part.header.get("action_bounds") == bounds for part in parts)
    found = {"first_choice": first} if first else {}
    return found | ({"action_bounds": bounds} if bounds and same else {})


def _without_final_observation(episode: Episode) -> Episode:
    return replace(episode, observations=episode.observations[: len(episode)])
