"""Episodes of an evaluation as films, each with a strip of pictures for paper."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq import checkpoint
from decision_seq.config import require
from decision_seq.envs import Environments
from decision_seq.evaluate import WAVE
from decision_seq.rollout import rollout
from decision_seq.types import Reporter, Scores, UserError
from decision_seq.video.rendering import Camera
from decision_seq.video.strip import Stills, draw_strip
from decision_seq.video.writers import Writer, open_writer, partial, suffix

FPS = 25  # of a film, at most: a simulator's own rate may be several times that


class Take:
    """One episode while it is filmed; of its frames only some stills are kept."""

    def __init__(self, writer: Writer, every: int) -> None:
        self.writer, self.every = writer, every
        self.rewards: list[float] = []
        self.stills = Stills()

    def see(self, camera: Camera, env: Any, ended: bool) -> None:
        """The environment before step `len(rewards)`, or after its last one."""
        step = len(self.rewards)
        if step % self.every == 0 or ended:
            frame = camera.picture(env)
            self.writer.write(frame)
            self.stills.see(step, frame, ended)


class FilmedEnvironments(Environments):
    """The first `len(takes)` of `count` environments are filmed; how they behave is the same."""

    def __init__(self, camera: Camera, count: int, takes: Sequence[Take]) -> None:
        super().__init__(camera.env_id, count)
        self.camera, self.takes = camera, takes
        for row in range(len(takes)):
            self.envs[row].close()
            self.envs[row] = camera.open()

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        observations = super().reset(seeds)
        for row, take in enumerate(self.takes):
            take.see(self.camera, self.envs[row], ended=False)
        return observations

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        stepped = super().step(rows, actions)
        for row, reward in zip(rows, stepped[1], strict=True):
            if row < len(self.takes):
                take = self.takes[row]
                take.rewards.append(float(reward))
                take.see(self.camera, self.envs[row], ended=not self.running[row])
        return stepped


class Studio:
    """What is needed to film, found before any rollout; UserError where it is lacking.

    path: a checkpoint; episodes: how many are filmed, the first ones of the first target, of
    `evaluated` ones; env_id: the checkpoint's unless given.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        episodes: int,
        evaluated: int,
        env_id: str | None,
        reporter: Reporter,
    ) -> None:
        most = min(evaluated, WAVE)
        require(
            1 <= episodes <= most,
            f"--video-episodes {episodes} asked for; films are made of 1 to {most}",
        )
        self.path, self.folder, self.episodes, self.reporter = path, folder, episodes, reporter
        env_id = env_id or checkpoint.load(path).facts.env_id
        require(env_id is not None, f"{path} names no environment to film; give one with --env")
        self.camera = Camera(str(env_id), reporter)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"cannot write films to {folder}: {error.strerror}") from error

    def film(self, scores: Scores, device: str | None = None) -> list[Path]:
        """Roll the first episodes of an evaluation out again -> the films and strips written.

        They share their batch with the same others as there: the last bits of an action depend on
        how many are computed together, and a return may depend on those.
        """
        import torch

        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded = checkpoint.load(self.path, where)
        asked = [(t.target, t.seed + i) for t in scores.targets for i in range(t.episodes)][:WAVE]
        names = [f"target{target:g}-seed{seed}" for target, seed in asked[: self.episodes]]
        films = [self.folder / f"{name}{suffix()}" for name in names]
        every = max(1, round(self.camera.fps / FPS))
        with ExitStack() as open_files:
            takes = [self._take(film, every, open_files) for film in films]
            environments = FilmedEnvironments(self.camera, len(asked), takes)
            open_files.callback(environments.close)
            targets, seeds = zip(*asked, strict=True)
            with self.reporter.bar("film", "episode", len(asked)) as bar:
                obtained = rollout(
                    loaded.policy,
                    loaded.conditioning,
                    loaded.policy_config.context_length,
                    environments,
                    np.array(targets, np.float64),
                    list(seeds),
                    bar,
                )
        self._compare(obtained[0], scores)
        written = list(films)
        for name, take, (target, seed) in zip(names, takes, asked, strict=False):
            written.append(self.folder / f"{name}.png")
            with partial(written[-1]) as path:
                draw_strip(path, scores.env_id, target, seed, take.rewards, take.stills.chosen())
        for path in written:
            self.reporter.say(f"written: {path}")
        return written

    def _take(self, film: Path, every: int, open_files: ExitStack) -> Take:
        """A take whose film gets its name when it is whole."""
        writer = open_writer(open_files.enter_context(partial(film)), self.camera.fps / every)
        open_files.callback(writer.close)
        return Take(writer, every)

    def _compare(self, returns: np.ndarray, scores: Scores) -> None:
        first = scores.targets[0]
        for filmed, evaluated, i in zip(returns, first.returns, range(self.episodes), strict=False):
            if filmed != evaluated:
                self.reporter.say(
                    f"video: the episode of seed {first.seed + i} returned {filmed:g} while filmed"
                    f" and {evaluated:g} in the evaluation; it is not the same to the last bit"
                )
