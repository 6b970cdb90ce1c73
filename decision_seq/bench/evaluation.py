"""Benchmark of evaluation: rollouts of a checkpoint by us and by the original's procedure.

The original (kzl/decision-transformer, gym/decision_transformer/evaluation/evaluate_episodes.py,
atari/mingpt/trainer_atari.py) steps one environment. Every step is a forward pass over the whole
context; all hidden states are computed and all but one are discarded. The history grows by
concatenation. The procedure is reimplemented here with the same weights and torch's default number
of threads. Both sides roll out the same episodes, so returns are compared in pairs.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq.bench.timing import machine
from decision_seq.config import require
from decision_seq.envs import environment_notes, make
from decision_seq.evaluation import Opened, open_checkpoint
from decision_seq.evaluation.acting import make_actor
from decision_seq.evaluation.episode_rows import SLOTS, draws_of
from decision_seq.evaluation.rollout import EpisodeRequest
from decision_seq.policies import DecisionTransformer
from decision_seq.report import table
from decision_seq.report.statistics import mean_interval
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.types import Batch, Reporter, Sampling, Transition

RECORDED = (4, 50)  # number of episodes, and first steps of each, whose actions are compared
ORIGINAL = "original's procedure"


def bench_evaluation(
    path: Path, episodes: int, precisions: Sequence[str], reporter: Reporter | None = None
) -> dict[str, Any]:
    """Wall-clock time of all episodes of the run's targets; ours runs before and after theirs.

    precisions: those of our rollouts. UserError unless the checkpoint is a Decision Transformer
    conditioned on a target return.
    """
    reporter, facts = reporter or Reporter(), machine()
    opened = open_checkpoint(path, "cpu", reporter=reporter, episodes=episodes)
    policy, conditioning = opened.loaded.policy, opened.evaluation.conditioning
    require(
        isinstance(policy, DecisionTransformer)
        and isinstance(conditioning, ReturnToGo)
        and policy.memory == "window"  # the original encodes the last K steps
        and conditioning.asks,  # the sum of another feature is not a target return
        f"bench evaluate needs a Decision Transformer asked for returns; {path} holds another",
    )
    ours: dict[str, list[dict[str, Any]]] = {name: [] for name in precisions}
    _timed(_at(opened, "fp32"), Reporter(), warm_up=True)
    for name in precisions:
        ours[name].append(_timed(_at(opened, name), reporter))
    original = _Original(opened)
    theirs = original.run(reporter)
    for name in reversed(precisions):
        ours[name].append(_timed(_at(opened, name), reporter))
    rows = [{"name": ORIGINAL, **_summary(theirs, theirs)}]
    for name in precisions:
        both = {
            "seconds": float(np.mean([run["seconds"] for run in ours[name]])),
            "steps": ours[name][0]["steps"],
            "returns": ours[name][0]["returns"],
        }
        rows.append({"name": f"decision_seq {name}", **_summary(both, theirs)})
    return {
        "what": f"{episodes} episodes of each of {len(opened.evaluation.targets)} targets",
        "checkpoint": str(opened.loaded.path),
        "env_id": opened.evaluation.env_id,
        "notes": environment_notes(opened.evaluation.env_id),
        "machine": facts,
        "processes": opened.processes,
        **original.differences(),
        "rows": rows,
    }


def evaluation_text(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = []
    for row in result["rows"]:
        low, high = row["difference_interval_95"]
        same = row["name"] == ORIGINAL
        rows.append(
            [
                row["name"],
                f"{row['seconds']:.1f}",
                f"{row['steps_per_second']:,.0f}",
                f"{row['speed']:.2f}",
                f"{row['return_mean']:,.1f}",
                "-" if same else f"{row['difference']:+.1f} [{low:.1f}, {high:.1f}]",
            ]
        )
    header = ["", "seconds", "env steps/s", "speed", "mean return", "paired difference, 95 %"]
    about = (
        f"{result['what']}, {result['env_id']}, {result['checkpoint']}\n"
        f"the original's on {result['machine']['threads']} thread(s), ours on"
        f" {result['processes']} process(es) of one; {result['notes'][0]}\n"
        f"on {result['steps_compared']} steps of the original's, fp32 actions differ by"
        f" at most {result['largest_difference_of_actions']:.1e};"
        f" {result['steps_that_differ']} steps differ"
    )
    return f"{about}\n\n{table(header, rows)}"


def _at(opened: Opened, precision: str) -> Opened:
    return dataclasses.replace(
        opened, evaluation=dataclasses.replace(opened.evaluation, precision=precision)
    )


def _timed(opened: Opened, reporter: Reporter, warm_up: bool = False) -> dict[str, Any]:
    """Timed evaluation, including the start of processes and the creation of environments."""
    if warm_up:
        targets = opened.evaluation.targets[:1]
        brief = dataclasses.replace(opened.evaluation, episodes=1, targets=targets)
        opened = dataclasses.replace(opened, evaluation=brief)
    started = time.perf_counter()
    part = opened.evaluation.rank_part(opened.loaded.policy, reporter=reporter)
    seconds = time.perf_counter() - started
    requests = opened.evaluation.requests()
    return {
        "seconds": seconds,
        "steps": sum(part["lengths"].values()),
        "returns": np.array([part["returns"][str(episode.index)] for episode in requests]),
    }


def _summary(run: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    rate = run["steps"] / run["seconds"]
    difference = run["returns"] - original["returns"]
    return {
        "seconds": run["seconds"],
        "steps": run["steps"],
        "steps_per_second": rate,
        # Per step, because rounding changes episodes and so their lengths.
        "speed": rate / (original["steps"] / original["seconds"]),
        "return_mean": float(run["returns"].mean()),
        "difference": float(difference.mean()),
        "difference_interval_95": mean_interval(difference),
    }


class _Original:
    """The original's procedure: one environment, one forward pass over the context per step."""

    def __init__(self, opened: Opened) -> None:
        assert isinstance(opened.loaded.policy, DecisionTransformer)
        self.opened, self.policy = opened, opened.loaded.policy
        self.context_length = opened.loaded.policy_config.context_length
        self.recorded: list[tuple[Batch, float, Tensor]] = []

    def run(self, reporter: Reporter) -> dict[str, Any]:
        requests = self.opened.evaluation.requests()
        env = make(self.opened.evaluation.env_id)
        returns, steps = [], 0
        started = time.perf_counter()
        with reporter.bar(ORIGINAL, "episode", len(requests)) as bar:
            for episode in requests:
                rewards = list(self._episode(env, episode))
                returns.append(sum(rewards))
                steps += len(rewards)
                bar.update()
        seconds = time.perf_counter() - started
        env.close()
        return {"seconds": seconds, "steps": steps, "returns": np.array(returns)}

    @torch.no_grad()
    def _episode(self, env: Any, request: EpisodeRequest) -> Iterator[float]:
        """The rewards of one episode."""
        conditioning, spec = self.opened.evaluation.conditioning, self.policy.spec
        targets = np.array([request.target])
        drawing = draws_of(request.seed)
        observation, _ = env.reset(seed=request.seed)
        observations = [observation]
        actions = torch.zeros(0, spec.action_size)
        if spec.action_kind == "discrete":
            actions = torch.zeros(0, dtype=torch.int64)
        conditions = torch.tensor(conditioning.prompt(targets))
        timesteps = torch.zeros(0, dtype=torch.int64)
        ended, timestep = False, 0
        while not ended:
            actions = torch.cat([actions, actions.new_zeros(1, *actions.shape[1:])])
            timesteps = torch.cat([timesteps, torch.tensor([timestep])])
            k = self.context_length
            batch = Batch(
                self._observations(observations[-k:]),
                actions[None, -k:],
                torch.zeros(1, min(k, timestep + 1)),
                conditions[None, -k:],
                timesteps[None, -k:].clamp(max=spec.max_timestep - 1),
                torch.ones(1, min(k, timestep + 1), dtype=torch.bool),
            )
            draw = float(drawing.random(dtype=np.float32))
            actions[-1] = self._action(batch, draw)
            if timestep < RECORDED[1] and len(self.recorded) < math.prod(RECORDED):
                self.recorded.append((batch, draw, actions[-1].clone()))
            observation, reward, terminated, truncated, _ = env.step(actions[-1].numpy())
            shown = 0.0 if self.opened.evaluation.delayed else reward  # see `Config.delayed`
            step = Transition(*(np.array([x]) for x in (observations[-1], actions[-1], shown, 0)))
            following = conditioning.advance(
                conditions[-1:].numpy(), targets, step, np.array([timestep])
            )
            observations.append(observation)
            conditions = torch.cat([conditions, torch.tensor(following)])
            ended, timestep = terminated or truncated, timestep + 1
            yield float(reward)

    def _observations(self, latest: list[np.ndarray]) -> Tensor:
        """Observations as a batch of one row: vectors, or frames without repetition."""
        seen = torch.as_tensor(np.stack(latest))
        if self.policy.spec.pixels:
            return torch.cat([seen[0], seen[1:, -1]])[None]
        return seen.float()[None]

    def _action(self, batch: Batch, draw: float) -> Tensor:
        """The action at the last position; hidden states of all positions are computed."""
        policy = self.policy
        hidden, _ = policy.backbone(policy.tokens(policy.encoded(batch)))  # [1, L, D]
        return policy.actions.choose(hidden[:, -1], self._sampling([draw]))[0]

    def _sampling(self, draws: list[float]) -> Sampling | None:
        temperature = self.opened.evaluation.temperature
        return Sampling(torch.tensor(draws), temperature) if temperature else None

    @torch.inference_mode()
    def differences(self) -> dict[str, Any]:
        """Differences between its actions and those of a rollout, which acts in policy batches."""
        actor, found = make_actor(self.policy, 1, SLOTS, self.context_length), []
        for batch, draw, expected in self.recorded:
            rows = Batch(
                **{
                    name: self._of_length(actor.shown, array).repeat(SLOTS, *[1] * (array.ndim - 1))
                    for name, array in vars(self.policy.encoded(batch)).items()
                    if array is not None
                }
            )
            actions = actor.decide(0, rows, self._sampling([draw] * SLOTS))
            found.append((actions - expected).abs().max())
        off = torch.stack(found)
        return {
            "steps_compared": len(off),
            "largest_difference_of_actions": float(off.max()),
            "steps_that_differ": int((off > 1e-5).sum()),
        }

    @staticmethod
    def _of_length(steps: int, array: Tensor) -> Tensor:
        """The last `steps` steps of a field [1, T, ...], padded with zeros on the right."""
        missing = max(steps - array.shape[1], 0)
        return torch.cat([array[:, -steps:], array.new_zeros(1, missing, *array.shape[2:])], 1)
