"""Atari data that can be had with no network: games played here by scripted players, on first use.

Episode i draws its player's skill, and all else, from a seed made of (seed, i): it is a function of
those two alone, whatever the number of workers. Such data are made by us: they are never
DQN-replay's, and say so wherever they are used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.data import players
from decision_seq.data.collection import Jobs, Size
from decision_seq.data.identity import sha256
from decision_seq.data.players import Skilled
from decision_seq.data.store import EpisodeStore
from decision_seq.data.writer import StoreWriter
from decision_seq.envs import facts_by_name, make, missing_extra
from decision_seq.envs.atari_scores import env_id_of
from decision_seq.types import Episode, Reporter, UserError
from decision_seq.workers import cores, process_pool

DEFAULT_SIZE = Size(100_000)
COLLECTOR = 1  # raised when the same seed no longer gives the same data
# Of an episode, 200 seconds of play: two who never miss would play on for ever. What is cut off is
# truncated.
MOST_STEPS = 3000
STACK = 4


@dataclass(frozen=True)
class Played:
    """A collection: its game, and what the default size of it holds with seed 0."""

    game: str
    episodes: int
    return_mean: float
    return_std: float

    @property
    def env_id(self) -> str:
        return env_id_of(self.game)


COLLECTIONS = {
    "bundled-pong": Played("pong", 57, -11.1, 12.7),
    "bundled-breakout": Played("breakout", 98, 112.4, 132.6),
}


def collection(name: str) -> Played:
    """By its name without `atari/`; UserError for an unknown one, or without the emulator."""
    if name not in COLLECTIONS:
        known = ", ".join(f"atari/{known}" for known in COLLECTIONS)
        raise UserError(f"atari/{name} does not exist; there are {known}")
    found = COLLECTIONS[name]
    missing = missing_extra(found.env_id)
    if missing:
        raise UserError(f"atari/{name}: {missing}")
    return found


def store_name(name: str, size: Size, seed: int) -> str:
    """A folder's name that changes with whatever the collected bytes depend on."""
    scripts = sha256(Path(players.__file__))
    packages = [version(package) for package in ("ale-py", "gymnasium", "numpy")]
    identity = [COLLECTOR, collection(name).env_id, MOST_STEPS, scripts, *packages]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    return f"atari-{name}-{size.count}{size.unit}s-seed{seed}-{key}"


def collect(
    name: str,
    output: Path,
    size: Size = DEFAULT_SIZE,
    seed: int = 0,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> EpisodeStore:
    """Play into a store of single frames at `output`; workers: processes, by default one a core."""
    found = collection(name)
    workers = cores() if workers is None else workers
    require(seed >= 0, f"--seed {seed} must not be negative")
    require(workers >= 1, f"--workers {workers} must be at least 1")
    require(size.count >= 1, f"--{size.unit}s {size.count} must be at least 1")
    env = make(found.env_id)  # says what is missing before any process starts
    choices = int(env.action_space.n)
    env.close()
    total, left = 0, size.count
    with (
        StoreWriter(output, STACK) as writer,
        process_pool(workers) as pool,
        (reporter or Reporter()).bar(f"collect atari/{name}", size.unit, size.count) as bar,
    ):
        jobs = Jobs(pool, play, (found.game, seed), chunk=1)
        for episode in jobs.episodes(size, MOST_STEPS, 2 * workers):
            writer.append(episode)
            total += len(episode)
            bar.update(min(size.of(episode), left))
            left -= min(size.of(episode), left)
        family = facts_by_name(found.env_id)
        return writer.finish(
            name,
            _source(name, found, size, seed),
            env_id=found.env_id,
            family=family[0] if family else None,
            max_episode_steps=MOST_STEPS,
            transitions_in=total,
            has_timeouts=True,
            choices=choices,
        )


def _source(name: str, found: Played, size: Size, seed: int) -> dict[str, Any]:
    return {
        "kind": "bundled",
        "description": (
            f"bundled collection atari/{name} ({found.env_id}, scripted players of every skill,"
            f" seed {seed}; not DQN-replay's data)"
        ),
        "ale_py": version("ale-py"),
        size.unit + "s": size.count,
        "seed": seed,
    }


@lru_cache(1)
def _environment(env_id: str) -> Any:
    """Kept by a worker from episode to episode: loading a game takes as long as 200 steps."""
    return make(env_id, max_episode_steps=MOST_STEPS)


def play(game: str, seed: int, first: int, count: int) -> list[Episode]:
    """Episodes first to first + count - 1: the newest frame of every step, the game's rewards."""
    indices = range(first, first + count)
    return [_episode(game, np.random.default_rng([seed, index])) for index in indices]


def _episode(game: str, rng: np.random.Generator) -> Episode:
    env = _environment(env_id_of(game))
    # Few mistakes cost most of the return, so most players make few.
    skill = 1 - rng.random() ** 2
    player = Skilled(game, skill, int(env.action_space.n), rng)
    stack, _ = env.reset(seed=int(rng.integers(2**31)))
    frames, actions, rewards = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        frames.append(stack[-1].copy())
        actions.append(player.act(env.unwrapped.ale.getRAM()))
        stack, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
    return Episode(np.stack(frames), np.array(actions), np.array(rewards), terminated, truncated)
