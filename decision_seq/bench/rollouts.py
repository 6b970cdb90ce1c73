"""Rolling out one checkpoint: beside the original's procedure, episode by episode.

The original (kzl/decision-transformer, gym/decision_transformer/evaluation/evaluate_episodes.py)
has one environment and, for every step, one forward pass of the whole context, whose hidden states
are all computed and all but one thrown away; its history grows by concatenation. Written plainly
here, over the same weights, with all the threads torch takes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decision_seq.config import require
from decision_seq.data.conditioning import ReturnToGo
from decision_seq.envs import environment_notes, make
from decision_seq.evaluate import Opened, open_checkpoint
from decision_seq.policies import DecisionTransformer
from decision_seq.report import table
from decision_seq.rollout import SEATS, Asked
from decision_seq.statistics import mean_interval
from decision_seq.types import Batch, Reporter

RECORDED = 200  # contexts of the original's episodes on which the actions are compared
ORIGINAL = "original's procedure"


def bench_rollouts(
    path: Path, episodes: int, precisions: Sequence[str], reporter: Reporter | None = None
) -> dict[str, Any]:
    """Wall-clock of all episodes of the run's targets, ours before and after the original's.

    precisions: ours. UserError unless the checkpoint is a Decision Transformer asked for returns.
    """
    reporter = reporter or Reporter()
    opened = open_checkpoint(path, "cpu", episodes=episodes)
    policy, conditioning = opened.loaded.policy, opened.evaluation.conditioning
    require(
        isinstance(policy, DecisionTransformer) and isinstance(conditioning, ReturnToGo),
        f"bench rollouts needs a Decision Transformer asked for returns; {path} holds another",
    )
    require(
        policy.spec.action_kind == "continuous",
        f"bench rollouts: the original's procedure knows no discrete actions, as of {path}",
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
        "threads": torch.get_num_threads(),
        "processes": opened.processes,
        "device": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "largest_difference_of_actions": original.difference(),
        "rows": rows,
    }


def rollouts_text(result: dict[str, Any]) -> str:
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
        f"{result['device']}, torch {result['torch']}; the original's on {result['threads']}"
        f" thread(s), ours on {result['processes']} process(es) of one; {result['notes'][0]}\n"
        f"largest difference of fp32 actions on {RECORDED} contexts of the original's:"
        f" {result['largest_difference_of_actions']:.1e}"
    )
    return f"{about}\n\n{table(header, rows)}"


def _at(opened: Opened, precision: str) -> Opened:
    return dataclasses.replace(
        opened, evaluation=dataclasses.replace(opened.evaluation, precision=precision)
    )


def _timed(opened: Opened, reporter: Reporter, warm_up: bool = False) -> dict[str, Any]:
    """An evaluation with all that belongs to it: the start of processes, making environments."""
    if warm_up:
        targets = opened.evaluation.targets[:1]
        brief = dataclasses.replace(opened.evaluation, episodes=1, targets=targets)
        opened = dataclasses.replace(opened, evaluation=brief)
    started = time.perf_counter()
    part = opened.evaluation.roll(opened.loaded.policy, reporter=reporter)
    seconds = time.perf_counter() - started
    asked = opened.evaluation.asked()
    return {
        "seconds": seconds,
        "steps": sum(part["lengths"].values()),
        "returns": np.array([part["returns"][str(episode.index)] for episode in asked]),
    }


def _summary(run: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    rate = run["steps"] / run["seconds"]
    difference = run["returns"] - original["returns"]
    return {
        "seconds": run["seconds"],
        "steps": run["steps"],
        "steps_per_second": rate,
        # Time for as many steps: episodes differ by rounding, and so in length.
        "speed": rate / (original["steps"] / original["seconds"]),
        "return_mean": float(run["returns"].mean()),
        "difference": float(difference.mean()),
        "difference_interval_95": mean_interval(difference),
    }


class _Original:
    """One environment, one forward of the whole context a step."""

    def __init__(self, opened: Opened) -> None:
        assert isinstance(opened.loaded.policy, DecisionTransformer)
        self.opened, self.policy = opened, opened.loaded.policy
        self.context_length = opened.loaded.policy_config.context_length
        self.recorded: list[tuple[Batch, Tensor]] = []

    def run(self, reporter: Reporter) -> dict[str, Any]:
        asked = self.opened.evaluation.asked()
        env = make(self.opened.evaluation.env_id)
        returns, steps = [], 0
        started = time.perf_counter()
        with reporter.bar(ORIGINAL, "episode", len(asked)) as bar:
            for episode in asked:
                rewards = list(self._episode(env, episode))
                returns.append(sum(rewards))
                steps += len(rewards)
                bar.update()
        seconds = time.perf_counter() - started
        env.close()
        return {"seconds": seconds, "steps": steps, "returns": np.array(returns)}

    @torch.no_grad()
    def _episode(self, env: Any, asked: Asked) -> Iterator[float]:
        """The rewards of one episode."""
        conditioning, spec = self.opened.evaluation.conditioning, self.policy.spec
        assert isinstance(conditioning, ReturnToGo)
        assert asked.target is not None
        scale = conditioning.scale or 1.0
        observation, _ = env.reset(seed=asked.seed)
        observations = torch.zeros(0, *spec.observation_shape)
        actions = torch.zeros(0, spec.action_size)
        condition = torch.tensor(conditioning.prompt(np.array([asked.target])))
        conditions, timesteps = torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)
        ended, timestep = False, 0
        while not ended:
            latest = torch.as_tensor(observation, dtype=torch.float32)
            observations = torch.cat([observations, latest[None]])
            actions = torch.cat([actions, torch.zeros(1, spec.action_size)])
            conditions = torch.cat([conditions, condition])
            timesteps = torch.cat([timesteps, torch.tensor([timestep])])
            k = self.context_length
            batch = Batch(
                observations[None, -k:],
                actions[None, -k:],
                torch.zeros(1, min(k, timestep + 1)),
                conditions[None, -k:],
                timesteps[None, -k:],
                torch.ones(1, min(k, timestep + 1), dtype=torch.bool),
            )
            actions[-1] = self._action(batch)
            if timestep % 7 == 0 and len(self.recorded) < RECORDED:
                self.recorded.append((batch, actions[-1].clone()))
            observation, reward, terminated, truncated, _ = env.step(actions[-1].numpy())
            condition = condition - float(reward) / scale
            ended, timestep = terminated or truncated, timestep + 1
            yield float(reward)

    def _action(self, batch: Batch) -> Tensor:
        """All hidden states of all blocks, then the one that is wanted."""
        policy = self.policy
        hidden = policy.backbone(policy._tokens(batch))  # [1, 3T - 1, D]
        return policy.actions.choose(hidden[0, -1])

    @torch.inference_mode()
    def difference(self) -> float:
        """Of its actions from those of `act` on its contexts, in the shape of rollouts."""
        largest = 0.0
        k = self.context_length
        for start in range(0, len(self.recorded), SEATS):
            part = self.recorded[start : start + SEATS]
            batch = Batch(
                *(
                    torch.cat([_padded(getattr(found, name), k) for found, _ in part])
                    for name in (f.name for f in dataclasses.fields(Batch))
                )
            )
            actions, _ = self.policy.act(batch)
            expected = torch.stack([action for _, action in part])
            largest = max(largest, float((actions - expected).abs().max()))
        return largest


def _padded(array: Tensor, length: int) -> Tensor:
    """[1, T, ...] -> [1, length, ...], with zeros on the right."""
    return torch.cat([array, array.new_zeros(1, length - array.shape[1], *array.shape[2:])], 1)
