"""The default evaluations during training: ten of them, where they are predicted to be cheap.

`evaluation.every: null` asks for them. They are made if all but the last are predicted to take less
than a tenth of the training's time: by the whole protocol if that is cheap enough, else by 8
episodes at the first target. Otherwise the policy is evaluated at the end only.

The prediction is computed from the configuration, the data's episodes, the FLOPs of a window and
the launch (device, threads, processes), never from a clock. So two equal launches evaluate at the
same updates. The decision is written to the run's config.yaml before the first update, and a
resumed run reads it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from decision_seq.evaluation import Evaluation
from decision_seq.formatting import number_text
from decision_seq.types import Reporter

EVALUATIONS = 10
SHARE = 0.1  # of the training's time
EPISODES = 8  # of a small evaluation; on a CPU they fill one policy batch


class Rates(NamedTuple):
    """Speed of a device: FLOP/s of a thread (of a process on a GPU), and times in seconds."""

    flops: float
    update: float
    """Time of an update besides its FLOPs."""
    step: float
    """Time of a policy batch's step in a rollout besides its FLOPs and the environments."""
    environment: float
    """Time of one environment's step."""


# Fitted to `bench steps` and `bench evaluate` of dt/gym and bc/gym on two cores with AVX-512. A
# GPU's are estimates: it computes faster, and its small kernels and the simulator do not.
CPU = Rates(8e10, 1e-2, 1.5e-3, 1e-4)
GPU = Rates(1e13, 8e-3, 4e-3, 1e-4)


class Work(NamedTuple):
    """What a prediction is computed from."""

    steps: int
    """Updates of the run."""
    batch_size: int
    """Windows in an update, over all processes."""
    flops: float
    """FLOPs of a window, forward and backward."""
    forwards: float
    """Forward passes of a window that one action takes; see `PolicyConfig.forwards`."""
    episode_steps: float
    """Length of the data's episodes, averaged over their steps."""
    layout: Callable[[int], tuple[int, int]]
    """Number of episodes -> environments per process, and processes; see `Evaluation.layout`."""
    device: str
    """Type of the device."""
    threads: int
    """Threads of a process."""
    world: int
    """Processes that train together."""


class Pace(NamedTuple):
    """Evaluations during training."""

    every: int
    """Updates between them; 0 for a single one at the end."""
    episodes: int | None = None
    """Episodes of one, at the first target; None for the whole protocol."""


def pace(evaluation: Evaluation, asked: int | None, work: Work, reporter: Reporter) -> Pace:
    """The evaluations of a run whose configuration leaves them open.

    asked: `evaluation.episodes_during` of the configuration.
    """
    training = training_seconds(work)
    for episodes in _candidates(evaluation, asked):
        share = (EVALUATIONS - 1) * rollout_seconds(evaluation.during(episodes), work) / training
        if share < SHARE:
            what = "the whole protocol" if episodes is None else f"{episodes} episodes"
            every = math.ceil(work.steps / EVALUATIONS)
            reporter.say(
                f"evaluate: {what} every {every:,} updates, predicted to take"
                f" {number_text(100 * share, 0, 1)} % of the training's time (--evaluation.every 0:"
                " only at the end)"
            )
            return Pace(every, episodes)
    return Pace(0, asked)


def _candidates(evaluation: Evaluation, asked: int | None) -> Iterator[int | None]:
    yield asked
    if asked is None:
        yield min(EPISODES, evaluation.episodes)


def training_seconds(work: Work) -> float:
    """Predicted time of the updates."""
    rates, threads = _rates(work)
    flops = work.batch_size * work.flops / (threads * work.world)
    return work.steps * (rates.update + flops / rates.flops)


def rollout_seconds(evaluation: Evaluation, work: Work) -> float:
    """Predicted time of one evaluation; its processes have one thread each."""
    rates, _ = _rates(work)
    share = math.ceil(len(evaluation.requests()) / work.world)
    together, processes = work.layout(share)
    rounds = math.ceil(share / (together * processes))
    longest = min(work.episode_steps, evaluation.max_episode_steps or math.inf)
    forward = work.forwards * work.flops / 3  # a backward pass takes twice the time of a forward
    each = rates.step + together * (rates.environment + forward / rates.flops)
    return rounds * longest * each


def _rates(work: Work) -> tuple[Rates, int]:
    """The rates of the device, and the number of threads that its updates use."""
    return (CPU, work.threads) if work.device == "cpu" else (GPU, 1)
