"""Prediction of an episode's return at every step (Chen et al., 2021, section 5.6).

There the Decision Transformer predicts its own return tokens. Where the only reward comes at the
end, the return tokens of earlier steps would contain the answer, so there are none here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.episode_store import Column
from decision_seq.models.auxiliary.base import Features
from decision_seq.models.backbones.base import State
from decision_seq.policies.base import Learnt, PolicyConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig
from decision_seq.types import Batch, Spec


@PolicyConfig.register_subclass("return_predictor")
@dataclass(frozen=True)
class ReturnPredictorConfig(DecisionTransformerConfig):
    """A Decision Transformer without a condition that predicts returns at its actions."""

    needs: ClassVar[tuple[str, ...]] = ("reward", "value")
    takes: ClassVar[tuple[str, ...] | None] = ()
    example: ClassVar[dict[str, Any]] = {"estimates": "return"}

    estimates: Literal["success", "return"] = "success"
    """Predicted quantity: `success` is the probability of a return of 1 where all other returns are
    0, learnt by cross-entropy; `return` is the expected return-to-go, learnt by squared error."""
    weight: float = 1.0
    """Factor of the prediction's loss in the sum with the action's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = 0 < self.weight < float("inf")
        require(fine, f"config: policy.weight {self.weight} must be above 0, and finite")

    def make(self, spec: Spec) -> ReturnPredictor:
        return ReturnPredictor(self, spec)


class ReturnPredictor(DecisionTransformer):
    """Transformer over tokens s_1, a_1, s_2, a_2, ... that predicts actions and returns.

    Actions are predicted, by behaviour cloning, at the state tokens. The return-to-go of a step,
    including its reward, is predicted at its action token. Rollouts have no target: rewards and
    values are labels, not inputs.
    """

    def __init__(self, config: ReturnPredictorConfig, spec: Spec) -> None:
        super().__init__(config, replace(spec, condition_size=0))
        self.spec, self.estimates = spec, config.estimates
        self.loss_weights["return"] = config.weight
        self.actions.embed.requires_grad_(True)  # an input even where K = 1
        self.head = nn.Linear(self.backbone.width, 1)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """As in the base class; UserError for `success` where a return is neither 0 nor 1."""
        super().fit(store, conditions)
        if self.estimates == "success":
            binary = bool(((store.returns == 0) | (store.returns == 1)).all())
            require(
                binary and self.spec.discount == 1,
                "policy.estimates success needs returns of 0 or 1, and --conditioning.discount 1;"
                " take --policy.estimates return",
            )

    def counted(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return super().counted(batch, rng) | {"return": batch.mask}

    def learn(self, batch: Batch, rng: torch.Generator, state: State | None = None) -> Learnt:
        encoded = self.encoded(batch)
        hidden, state = self.unrolled(encoded, state)
        rewards, values = batch.conditions.unbind(-1)
        found, returns = self._read(hidden), rewards + self.spec.discount * values
        if self.estimates == "success":
            errors = F.binary_cross_entropy_with_logits(found, returns, reduction="none")
        else:
            errors = (found - returns) ** 2
        hidden = hidden[:, self.states]
        losses = self.actions.losses(hidden, batch, rng) | {"return": errors}
        features = Features(encoded.observations, hidden, self.encode)
        return Learnt(losses, features, state, self.actions.metrics(hidden, batch))

    def expected(self, batch: Batch) -> Tensor:
        """The return-to-go, or the probability of success, given each step's action, [B, T]."""
        hidden, _ = self.backbone(self.all_tokens(self.encoded(batch)))
        found = self._read(hidden)
        return found.sigmoid() if self.estimates == "success" else found

    def _read(self, hidden: Tensor) -> Tensor:
        """Predictions at the action tokens: hidden [B, 2T, D] -> [B, T] float32."""
        return self.head(hidden[:, 1::2])[..., 0].float()
