"""Behaviour cloning by a multi-layer perceptron over the last K states.

The baseline of Chen et al. (2021); sizes: kzl/decision-transformer gym/experiment.py and
gym/decision_transformer/models/mlp_bc.py. With the best X % of the data (`best_fraction`) it is
their %BC. Its input has no actions and no condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.models.actions import Head, make_actions
from decision_seq.models.auxiliary.base import Features, Sizes
from decision_seq.models.backbones.base import State
from decision_seq.models.encoders import Standardizer
from decision_seq.models.layers import Dropout
from decision_seq.policies.base import Learnt, Policy, PolicyConfig
from decision_seq.types import Batch, Sampling, Spec


@PolicyConfig.register_subclass("bc")
@dataclass(frozen=True)
class BehaviourCloningConfig(PolicyConfig):
    """Behaviour cloning by a multi-layer perceptron."""

    observations: ClassVar[tuple[str, ...]] = ("vector",)
    ignores: ClassVar[tuple[str, ...]] = ("actions", "conditions")
    gives_features: ClassVar[bool] = True

    layers: int = 3
    """Number of hidden layers."""
    width: int = 128
    """Width of each hidden layer."""
    dropout: float = 0.1
    """Dropout after each hidden layer."""
    head: Head = "plain"
    """`plain` predicts the action (a continuous one through a tanh), `linear` without the tanh,
    `stochastic` a distribution of continuous actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("layers", "width"):
            value = getattr(self, key)
            require(value >= 1, f"config: policy.{key} {value} must be at least 1")
        dropout = self.dropout
        require(0 <= dropout < 1, f"config: policy.dropout {dropout} must be in [0, 1)")

    def make(self, spec: Spec) -> BehaviourCloning:
        return BehaviourCloning(self, spec)


class BehaviourCloning(Policy):
    """Multi-layer perceptron from the last K standardised states, oldest first, to the action.

    States before the start of an episode are zeros, in training and in a rollout. (The original
    pads training windows before it standardises them and rollouts afterwards, so the first K - 1
    steps of a rollout differ from all training inputs.)
    """

    def __init__(self, config: BehaviourCloningConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        size, width = spec.observation_shape[0], config.width
        self.standardize = Standardizer(size)
        sizes = [config.context_length * size, *[width] * (config.layers - 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), Dropout(config.dropout))
            for inputs in sizes
        )
        self.actions = make_actions(spec, width, embedded=False, head=config.head)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        self.standardize.fit(store)

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Weights of 1 for steps whose context in the window is the same as in a rollout.

        That context is K states, or all states since the start of the episode. Each step of an
        episode has it in exactly one window, so the loss is the mean over the transitions, each
        with its whole context. (The original counts the last step of every window. It never counts
        the first K - 1 steps of an episode, and counts the last step K times.)
        """
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        whole = (steps == self.config.context_length - 1) | (batch.timesteps[:, :1] == 0)
        return dict.fromkeys(self.actions.LOSSES, batch.mask & whole)

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        encoded = self.encoded(batch)
        hidden = self._hidden(self._contexts(encoded))  # [B, T, D]
        features = Features(encoded.observations, hidden, self.encode)
        losses = self.actions.losses(hidden, batch, rng)
        return Learnt(losses, features, None, self.actions.metrics(hidden, batch))

    def feature_sizes(self) -> Sizes:
        return Sizes(self.spec.observation_shape[0], self.config.width)

    def encoder_module(self) -> nn.Module:
        return self.standardize

    def encode(self, observations: Tensor) -> Tensor:
        return self.standardize(observations)

    def decide(
        self, batch: Batch, state: Any = None, sampling: Sampling | None = None
    ) -> tuple[Tensor, None]:
        rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
        newest = self._contexts(batch)[rows, batch.lengths - 1]  # [B, K * S]
        return self.actions.choose(self._hidden(newest), sampling), None

    def _contexts(self, encoded: Batch) -> Tensor:
        """The K states up to every step of the window, [B, T, K * S]."""
        length = self.config.context_length
        states = F.pad(encoded.observations, (0, 0, length - 1, 0))
        return states.unfold(1, length, 1).transpose(2, 3).flatten(2)

    def _hidden(self, contexts: Tensor) -> Tensor:
        """Contexts [..., K * S] -> hidden [..., D]."""
        for layer in self.layers:
            contexts = layer(contexts)
        return contexts
