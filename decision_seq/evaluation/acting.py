"""Actors: how a rollout calls a policy, batch by batch of environment slots.

`PolicyActor` calls `Policy.decide`. `SlidingActor` computes the same actions faster for the
policies and backbones that it was written for. They are looked up by exact type, so a subclass that
changes either of them uses the plain `PolicyActor`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from decision_seq.models.backbones import GPT
from decision_seq.models.fast.linear import lowered
from decision_seq.models.fast.sliding_decode import (
    MAX_TOKENS,
    FoldedTransformer,
    SlidingDecoder,
)
from decision_seq.models.layers import Block, select
from decision_seq.policies import (
    BidirectionalTransformer,
    DecisionTransformer,
    Policy,
    ReturnPredictor,
)
from decision_seq.types import Batch, Sampling


class PolicyActor:
    """A policy in a rollout, for `batches` policy batches of `rows` environment slots each.

    shown: how many of the newest steps of each context `decide` receives. precision: dtype of
    the matrix products (autocast).
    """

    def __init__(
        self,
        policy: Policy,
        batches: int,
        rows: int,
        context_length: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        low = precision != torch.float32
        device = next(policy.parameters()).device
        self.policy = lowered(policy, precision) if low else policy
        self.autocast = torch.autocast(device.type, precision, enabled=low)
        self.shown = policy.shown_steps(context_length)
        self.states: list[Any] = [policy.initial_state(rows) for _ in range(batches)]

    def encode(self, observations: Tensor) -> Tensor:
        """[B, 1, ...] -> [B, 1, F]."""
        with self.autocast:
            return self.policy.encode(observations)

    def decide(self, number: int, batch: Batch, sampling: Sampling | None) -> Tensor:
        """The actions of policy batch `number` at its newest steps; updates its state."""
        with self.autocast:
            actions, self.states[number] = self.policy.decide(batch, self.states[number], sampling)
        return actions


class SlidingActor(PolicyActor):
    """Actor of a Decision Transformer over a one-head GPT, whose windows slide.

    See `models.fast.sliding_decode`. It copies the weights at construction; products are in
    `precision`.
    """

    def __init__(
        self,
        policy: DecisionTransformer,
        batches: int,
        rows: int,
        context_length: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(policy, batches, rows, context_length)
        count, backbone = policy.tokens_per_step, cast(GPT, policy.backbone)
        blocks = [cast(Block, block) for block in backbone.blocks]
        steps = context_length, count
        shared = FoldedTransformer(blocks, backbone.norm, rows, *steps, precision)
        self.states = [SlidingDecoder(shared) for _ in range(batches)]
        self.shown = min(context_length, 2)
        # Positions of the newest tokens by context length, [K + 1, M]: the action before the newest
        # step, then that step's tokens without its action.
        firsts = count * torch.arange(-1, max(context_length, 2), device=shared.device)[:, None]
        places = torch.arange(-1, count - 1, device=shared.device)
        self.newest = (firsts + places).clamp_(min=0)

    def decide(self, number: int, batch: Batch, sampling: Sampling | None) -> Tensor:
        policy = cast(DecisionTransformer, self.policy)
        lengths = batch.lengths
        begins = lengths == 1  # a context of two steps is that short at an episode's first
        with self.autocast:  # disabled here: a caller's must not reach the products
            tokens = select(policy.all_tokens(batch), self.newest.index_select(0, lengths))
            return policy.actions.choose(self.states[number](tokens, begins), sampling)


# Policies and backbones whose tokens and attention `SlidingActor` computes, by exact type.
SLIDING = (DecisionTransformer, BidirectionalTransformer, ReturnPredictor), (GPT,)


def slides(policy: Policy, context_length: int) -> bool:
    """Whether `SlidingActor` can act for the policy.

    It needs one head, attention to all earlier tokens, positions that do not depend on the window,
    and windows of at most `MAX_TOKENS` tokens.
    """
    policies, backbones = SLIDING
    if type(policy) not in policies:
        return False
    transformer = cast(DecisionTransformer, policy)
    backbone = transformer.backbone
    if type(backbone) not in backbones:
        return False
    gpt = cast(GPT, backbone)
    fits = context_length * transformer.tokens_per_step <= MAX_TOKENS
    return gpt.heads == 1 and gpt.places is None and transformer.positions.lasting and fits


def make_actor(
    policy: Policy,
    batches: int,
    rows: int,
    context_length: int,
    precision: torch.dtype = torch.float32,
) -> PolicyActor:
    """The fastest actor that supports the policy."""
    if slides(policy, context_length):
        made = cast(DecisionTransformer, policy)
        return SlidingActor(made, batches, rows, context_length, precision)
    return PolicyActor(policy, batches, rows, context_length, precision)
