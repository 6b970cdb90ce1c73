"""Films of an evaluation's episodes, each with a strip of still pictures for print."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from decision_seq.config import require
from decision_seq.envs import Environments, close
from decision_seq.evaluation.checkpoints import Opened
from decision_seq.evaluation.protocol import DTYPES, step_limit
from decision_seq.evaluation.rollout import EpisodeRequest, rollout_returns
from decision_seq.evaluation.video.caption import Caption
from decision_seq.evaluation.video.rendering import Camera
from decision_seq.evaluation.video.strip import Stills, draw_strip
from decision_seq.evaluation.video.writers import Writer, open_writer, partial, suffix
from decision_seq.types import Reporter, Scores, UserError

FPS = 25  # frames per second of a film, at most: a simulator's rate may be several times higher


class Take:
    """One episode while it is filmed; only some of its frames stay in memory, as stills."""

    def __init__(self, writer: Writer, every: int, caption: Caption) -> None:
        self.writer, self.every, self.caption = writer, every, caption
        self.rewards: list[float] = []
        self.stills = Stills()

    def see(self, camera: Camera, env: Any, ended: bool) -> None:
        """Film the environment before step `len(rewards)`, or after its last step."""
        step = len(self.rewards)
        if step % self.every == 0 or ended:
            frame = camera.frame(env)
            self.writer.write(self.caption.under(frame, sum(self.rewards), step))
            self.stills.see(step, frame, ended)


class FilmedEnvironments(Environments):
    """Environments that are filmed, one take per environment; their behaviour is unchanged."""

    def __init__(
        self,
        camera: Camera,
        takes: Sequence[Take],
        delayed: bool = False,
        step_limit: int | None = None,
    ) -> None:
        super().__init__(camera.env_id, len(takes), delayed, step_limit)
        self.camera, self.takes = camera, takes
        for row in range(len(takes)):
            close(self.envs[row], camera.env_id)
            self.envs[row] = camera.open()

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | np.ndarray | None = None) -> Any:
        observations = super().reset(seeds, rows)
        for row in range(len(seeds)) if rows is None else rows:
            self.takes[row].see(self.camera, self.envs[row], ended=False)
        return observations

    def step(
        self, rows: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        stepped = super().step(rows, actions)
        for row, reward in zip(rows, stepped[1], strict=True):
            self.takes[row].rewards.append(float(reward))
            self.takes[row].see(self.camera, self.envs[row], ended=not self.running[row])
        return stepped


class Studio:
    """The means to film an evaluation, checked before any rollout; UserError if one is missing.

    episodes: number of episodes that are filmed, the first ones of the first target.
    """

    def __init__(self, opened: Opened, folder: Path, episodes: int, reporter: Reporter) -> None:
        most = opened.evaluation.episodes
        require(
            1 <= episodes <= most,
            f"--video-episodes {episodes} asked for; films are made of 1 to {most}",
        )
        self.opened, self.folder, self.reporter = opened, folder, reporter
        self.requests = opened.evaluation.requests()[:episodes]
        self.camera = Camera(opened.evaluation.env_id, reporter)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"cannot write films to {folder}: {error.strerror}") from error

    def film(self, scores: Scores) -> list[Path]:
        """Roll out the first episodes of an evaluation again -> the paths of films and strips.

        On a CPU the episodes are equal to the bit, as an episode depends only on its number.
        """
        loaded = self.opened.loaded
        films = [self.folder / f"{_name(request)}{suffix()}" for request in self.requests]
        every = max(1, round(self.camera.fps / FPS))
        with ExitStack() as open_files:
            takes = [
                self._take(film, every, open_files, Caption(request.target))
                for film, request in zip(films, self.requests, strict=True)
            ]
            evaluation = self.opened.evaluation
            limit = evaluation.max_episode_steps
            environments = FilmedEnvironments(self.camera, takes, evaluation.delayed, limit)
            environments.step_limit = step_limit(environments, loaded.policy.spec)
            open_files.callback(environments.close)
            with self.reporter.bar("film", "episode", len(takes)) as bar:
                returns, _ = rollout_returns(
                    loaded.policy,
                    loaded.conditioning,
                    loaded.policy_config.context_length,
                    environments,
                    [request.target for request in self.requests],
                    [request.seed for request in self.requests],
                    bar,
                    DTYPES[self.opened.evaluation.precision],
                    self.opened.evaluation.temperature,
                )
        self._compare(returns, scores)
        written = list(films)
        for request, take in zip(self.requests, takes, strict=True):
            written.append(self.folder / f"{_name(request)}.png")
            draw_strip(
                written[-1],
                scores.env_id,
                request.target,
                request.seed,
                take.rewards,
                take.stills.chosen(),
            )
        for path in written:
            self.reporter.say(f"written: {path}")
        return written

    def _take(self, film: Path, every: int, open_files: ExitStack, caption: Caption) -> Take:
        """A take whose film file gets its final name once it is complete."""
        writer = open_writer(open_files.enter_context(partial(film)), self.camera.fps / every)
        open_files.callback(writer.close)
        return Take(writer, every, caption)

    def _compare(self, returns: np.ndarray, scores: Scores) -> None:
        for request, filmed in zip(self.requests, returns, strict=True):
            evaluated = scores.targets[0].returns[request.index]
            if filmed != evaluated:
                self.reporter.say(
                    f"video: the episode of seed {request.seed} returned {filmed:g} while filmed"
                    f" and {evaluated:g} in the evaluation; it is not the same to the last bit"
                )


def _name(request: EpisodeRequest) -> str:
    target = "" if request.target is None else f"target{request.target:g}-"
    return f"{target}seed{request.seed}"
