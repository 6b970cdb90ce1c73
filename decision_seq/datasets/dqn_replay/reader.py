"""Reader of DQN-replay, the training logs of DQN on Atari games, into a store of frames.

Agarwal et al. 2020 (google-research/batch_rl) logged 5 runs of 50 million transitions for each of
60 games, each run in 50 shards (`shards`). Dopamine's buffer begins every episode with three
transitions of zeros that never happened; this padding is dropped. Rewards were clipped to [-1, 1]
before logging. The rows after a shard's last terminal become an episode that is neither terminated
nor truncated.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import envs
from decision_seq.datasets.dqn_replay.draw import ReplayConfig, original_draw, too_few
from decision_seq.datasets.dqn_replay.shards import (
    Shard,
    Stream,
    find_shards,
    open_shard,
    shard_folder,
)
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs.atari_scores import ATARI, MOST_STEPS, env_id_of, family_of, name_of
from decision_seq.types import Episode, Reporter, UserError

STACK, PADDING = 4, 3
PUBLIC = "gs://atari-replay-datasets/dqn"  # the authors' bucket of the logs


@dataclass
class _Counts:
    """Counts of transitions: rows = kept + padding + not requested."""

    shards: int = 0
    rows: int = 0
    kept: int = 0
    padding: int = 0
    unpadded: int = 0  # episodes that begin without padding
    highest: float = 0.0  # largest absolute reward

    def lines(self, folder: Path, of: int) -> Iterator[str]:
        """Messages on the counts; `of`: the number of shards in the folder."""
        left = self.rows - self.kept - self.padding
        yield (
            f"{folder}: {self.rows:,} transitions in {self.shards} of {of} shard(s) ="
            f" {self.kept:,} kept + {self.padding:,} of padding + {left:,} not requested"
        )
        if self.unpadded:
            yield (
                f"{folder}: {self.unpadded:,} episodes begin without Dopamine's padding, as when a"
                " shard begins within an episode; they are stored, with steps counted from 0"
            )
        if self.highest > 1:
            yield f"{folder}: rewards reach {self.highest:g}: they were not cut to [-1, 1]"


def read(
    path: Path, output: Path, reporter: Reporter | None = None, config: ReplayConfig | None = None
) -> EpisodeStore:
    """Read the shards at or below a folder into a store at `output`; UserError for a bad shard.

    The game is that of the nearest folder above the shards that has a game's name.
    """
    reporter, config = reporter or Reporter(), config or ReplayConfig()
    path = shard_folder(path)
    game = game_of(path)
    choices = _choices(game)
    numbers = find_shards(path)
    taken: dict[int, int | None] = dict.fromkeys(numbers)  # shard -> episodes; None for all
    if config.scheme == "original":
        taken = {**original_draw(path, numbers, config)}
    enough = config.transitions if config.scheme == "first" else None
    counts, digest = _Counts(), hashlib.sha256()
    with StoreWriter(output, STACK) as writer:
        for number, most in taken.items():
            if enough is not None and counts.kept >= enough:
                break
            shard = open_shard(path, number)
            _require_actions(shard, game, choices)
            digest.update(shard.digest.encode())
            _fill(writer, shard, shard.segments()[:most], config, counts, reporter)
        if enough is not None and counts.kept < enough:
            raise too_few(path, counts.kept, config)
        for line in counts.lines(path, len(numbers)):
            reporter.say(line)
        if not counts.kept:
            raise UserError(f"{path} holds nothing but padding; fetch more shards")
        return writer.finish(
            f"{name_of(game)}-dqn-replay",
            _source(path, game, counts, config, digest.hexdigest()),
            env_id=env_id_of(game),
            family=family_of(game),
            max_episode_steps=MOST_STEPS,
            transitions_in=counts.kept,
            has_timeouts=False,
            choices=choices,
            clipped=counts.highest <= 1,
        )


def _fill(
    writer: StoreWriter,
    shard: Shard,
    segments: list[tuple[int, int]],
    config: ReplayConfig,
    counts: _Counts,
    reporter: Reporter,
) -> None:
    """Write a shard's episodes; with the scheme `first`, stop when there are enough."""
    counts.shards += 1
    counts.rows += len(shard)
    counts.highest = max(counts.highest, float(np.abs(shard.rewards).max()))
    with (
        shard.frames() as frames,
        reporter.bar(f"read shard {shard.number}", "row", segments[-1][1]) as bar,
    ):
        for start, stop in segments:
            episode, padding = _episode(shard, frames, start, stop)
            counts.unpadded += padding == 0
            if not config.keep_padding:
                counts.padding += padding
                episode = _without(episode, padding)
            bar.update(stop - start)
            if len(episode):  # a shard may end in padding
                writer.append(episode)
                counts.kept += len(episode)
            if config.scheme == "first" and counts.kept >= config.transitions:
                break


def _episode(shard: Shard, frames: Stream, start: int, stop: int) -> tuple[Episode, int]:
    """Rows start to stop - 1 as an episode, and the number of them that are padding."""
    if stop - start > MOST_STEPS + PADDING:
        raise UserError(
            f"{shard.folder}: shard {shard.number} has no terminal in its rows {start:,} to"
            f" {stop - 1:,}; an episode ends after {MOST_STEPS:,} steps at most"
        )
    episode = Episode(
        frames.read(stop - start),
        shard.actions[start:stop],
        shard.rewards[start:stop],
        bool(shard.terminals[stop - 1]),
        False,
    )
    padding = 0
    for step in range(min(PADDING, stop - start)):
        if episode.actions[step] or episode.rewards[step] or shard.terminals[start + step]:
            break
        if episode.observations[step].any():
            break
        padding += 1
    return episode, padding


def _without(episode: Episode, first: int) -> Episode:
    return replace(
        episode,
        observations=episode.observations[first:],
        actions=episode.actions[first:],
        rewards=episode.rewards[first:],
    )


def game_of(path: Path) -> str:
    """The ROM's name of the game that the nearest folder is called after.

    .../MsPacman/1/replay_logs -> `ms_pacman`; UserError if no folder has a game's name.
    """
    known = known_games()
    for folder in (path.resolve(), *path.resolve().parents):
        if folder.name.lower() in known:
            return known[folder.name.lower()]
    raise UserError(
        f"{path}: no folder above these shards is called like an Atari game; lay them out as"
        " .../Breakout/1/replay_logs"
    )


def known_games() -> dict[str, str]:
    """The games of ale-py, `mspacman` -> `ms_pacman`; UserError without ale-py."""
    try:
        from ale_py.roms import get_all_rom_ids
    except ImportError as error:
        raise UserError(
            "Atari games need ale-py, which is not installed; pip install 'decision-seq[atari]'"
        ) from error
    return {name_of(game).lower(): game for game in get_all_rom_ids()}


def _choices(game: str) -> int:
    """Number of actions in the game's minimal set."""
    env = envs.make(env_id_of(game))
    choices = int(env.action_space.n)
    env.close()
    return choices


def _require_actions(shard: Shard, game: str, choices: int) -> None:
    low, high = int(shard.actions.min()), int(shard.actions.max())
    if low < 0 or high >= choices:
        raise UserError(
            f"{shard.folder}: shard {shard.number} holds action {low if low < 0 else high}, but"
            f" {name_of(game)} has {choices}: these are the logs of another game; name the folder"
            " after it"
        )


def _source(
    path: Path, game: str, counts: _Counts, config: ReplayConfig, digest: str
) -> dict[str, Any]:
    taken = {"all": "all", "first": "the first", "original": "drawn as the original does:"}
    what = f"{taken[config.scheme]} {counts.kept:,} transitions of {counts.shards} shard(s)"
    if config.scheme == "original":
        what += f", seed {config.seed}"
    if config.keep_padding:
        what += ", padding kept"
    return {
        "kind": "dqn-replay",
        "description": f"DQN-replay logs of {name_of(game)}, {what}, sha256 {digest[:12]}",
        "path": str(path.resolve()),
        "sha256": digest,  # of actions, rewards and terminals
        "counts": asdict(counts),
        "config": asdict(config),
    }


def where(game: str, root: Path) -> Path:
    """The folder of a game's first run below `root`; UserError if there is none.

    game: the name of DQN-replay's folder, `Breakout`.
    """
    known = known_games()
    if game.lower() not in known:
        near = difflib.get_close_matches(game.lower(), known, 1, 0.4)
        hint = f"; did you mean {ATARI}{name_of(known[near[0]])}?" if near else ""
        raise UserError(f"{ATARI}{game}: ale-py knows no such game{hint}")
    name = name_of(known[game.lower()])
    folder = root / "atari" / name / "1" / "replay_logs"
    if not folder.is_dir():
        raise UserError(
            f"{ATARI}{game}: put DQN-replay's logs in {folder}, as by `gsutil -m cp -r"
            f" {PUBLIC}/{name}/1/replay_logs {folder.parent}`; a few shards will do"
        )
    return folder
