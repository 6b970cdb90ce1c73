"""The contract of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import draccus
import numpy as np
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.conditioning import HINDSIGHT_ONLY, Conditioning
from decision_seq.data.store import Column, EpisodeStore
from decision_seq.types import Batch, Episode, Sampling, Spec, UserError

# name -> values [B, T]; reduced once, by `train.update.masked_mean`, with the policy's weights.
Losses = dict[str, Tensor]


class Policy(nn.Module):
    """Embeds a batch, lays it out as tokens, and returns named losses or actions.

    A batch may come in parts (ranks, micro-batches): what each step counts is known from `weights`
    before any part goes through the network, so every part is divided by the whole batch's sum.
    """

    spec: Spec
    futures: int = 0  # see `PolicyConfig`

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """Take from the data what must be known before training: statistics, into buffers.

        conditions: the labels of every transition, [N, C], as `data.conditioning.label` gives them.
        """
        raise NotImplementedError

    def weights(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """What each step counts in each loss, name -> [B, T]: computed without parameters.

        rng: seeded as `forward` finds it, so what is drawn here (masked positions) is drawn alike;
        and alike for every part of a batch, so what a step draws must follow from `Batch.ids`.
        """
        return {"action": batch.mask}

    def forward(self, batch: Batch, rng: torch.Generator) -> Losses:
        """A torch batch [B, T] -> unreduced losses, of the names of `weights`.

        rng: supplies what a policy draws itself; dropout draws from torch's own generator. The loss
        `action` of a discrete action is its negative log-likelihood, which `offline` reads there.
        """
        raise NotImplementedError

    def encode(self, observations: Tensor) -> Tensor:
        """What the policy keeps of observations, [B, T, F]: each by itself, wherever it stands.

        A rollout encodes an observation once, when it is new.
        """
        raise NotImplementedError

    def carry(
        self,
        tables: int,
        rows: int,
        context_length: int,
        precision: torch.dtype = torch.float32,
    ) -> Sequence[Any]:
        """The states in which `decide` carries tables of so many rows from step to step, before any
        row has begun an episode: of the weights of now, with products in `precision`.

        With one `decide` need only be shown the last two steps, and still acts by the last
        `context_length`. It changes the state itself, which no gradient flows through. None: it has
        to be shown all steps.
        """
        return [None] * tables

    def decide(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """Actions [B, A] or [B] at the newest step of each row, and the state carried on (or None).

        batch: its observations are what `encode` made of them. state: None for rows of which
        nothing was carried, else what `carry` gave before the first step and `decide` at every
        step since: rows keep their place, and one whose newest timestep is 0 begins an episode, of
        which nothing but that step is shown.
        sampling: of what is drawn, actions or what plans imagine; the likeliest without it.
        """
        raise NotImplementedError

    def act(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, Any]:
        """As `decide`, from observations as they are."""
        return self.decide(self.encoded(batch), state, sampling)

    def encoded(self, batch: Batch) -> Batch:
        """The batch with what the policy keeps of its observations in their place."""
        return replace(batch, observations=self.encode(batch.observations))

    def hindsight(self, batch: Batch) -> Batch:
        """The batch of training as `forward` conditions on it: as it is, or with conditions that
        the policy itself makes of what was still to come, where it has none yet."""
        return batch

    def conditioning(self, given: Conditioning) -> Conditioning:
        """What conditions a rollout: `given`, or the policy's own."""
        return given

    def relabel(self, conditioning: Conditioning, episode: Episode) -> np.ndarray:
        """The conditions of a target trajectory, [T, C]: its labels, or the policy's own."""
        return conditioning.relabel(episode)

    def after_step(self) -> None:
        """Called after every update of the weights."""


@dataclass(frozen=True)
class PolicyConfig(draccus.ChoiceRegistry):
    """A policy's hyper-parameters and the only place of their defaults.

    context_length: K, the steps in a training window and in the context of a rollout.
    needs: labels that the policy learns from, by name; they come first in a condition. takes: what
    other labels it has a use for; None for any that a rollout knows.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...] | None] = None
    context_length: int = 20

    def __post_init__(self) -> None:
        length = self.context_length
        require(length >= 1, f"config: policy.context_length {length} must be at least 1")
        most = 100_000  # else windows are laid out until memory ends
        require(length <= most, f"config: policy.context_length {length} must be at most {most:,}")

    @classmethod
    def default_choice_name(cls) -> str:
        return "dt"

    @property
    def futures(self) -> int:
        """How many observations behind a window are gathered with it for training."""
        return 0

    @classmethod
    def accepts(cls, fields: tuple[str, ...]) -> bool:
        """Whether the policy can be trained on a conditioning with these fields."""
        count = len(cls.needs)
        others = set(fields[count:])
        if fields[:count] != cls.needs:
            return False
        return not others & HINDSIGHT_ONLY if cls.takes is None else others <= set(cls.takes)

    def build(self, spec: Spec) -> Policy:
        raise NotImplementedError


def check_labels(policy: PolicyConfig, conditioning: Conditioning) -> None:
    """UserError unless the conditioning's labels, by name, are those that the policy can use."""
    if policy.accepts(conditioning.fields):
        return
    found = ", ".join(conditioning.fields) or "nothing"
    wanted = f"needs the labels {', '.join(policy.needs)}" if policy.needs else "cannot use them"
    if set(conditioning.fields) & HINDSIGHT_ONLY and not policy.needs:
        wanted = "would have to know them when it acts, and no rollout does"
    known = Conditioning.get_known_choices()
    fitting = " or ".join(sorted(n for n, cls in known.items() if policy.accepts(cls.fields)))
    raise UserError(
        f"config: conditioning.name {Conditioning.get_choice_name(type(conditioning))} gives"
        f" {found}; the policy {PolicyConfig.get_choice_name(type(policy))} {wanted}: take"
        f" --conditioning.name {fitting}"
    )
