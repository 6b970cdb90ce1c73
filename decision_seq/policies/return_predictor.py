"""What an episode will have brought, told while it goes on (Chen et al., 2021, section 5.6).

There the Decision Transformer predicts its own return tokens. Those of the steps before would tell
it the answer where the one reward comes at the end, so here there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.data.store import Column, EpisodeStore
from decision_seq.policies.base import Losses, PolicyConfig
from decision_seq.policies.dt import DecisionTransformer, DecisionTransformerConfig
from decision_seq.types import Batch, Spec


@PolicyConfig.register_subclass("return_predictor")
@dataclass(frozen=True)
class ReturnPredictorConfig(DecisionTransformerConfig):
    """estimates: `success`, the probability of a return of 1 where all others are 0, learnt by
    cross-entropy; `return`, the expected return-to-go, by squared error. weight: of that loss,
    beside the action's."""

    needs: ClassVar[tuple[str, ...]] = ("reward", "value")
    takes: ClassVar[tuple[str, ...] | None] = ()
    estimates: Literal["success", "return"] = "success"
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fine = 0 < self.weight < float("inf")
        require(fine, f"config: policy.weight {self.weight} must be above 0, and finite")

    def build(self, spec: Spec) -> ReturnPredictor:
        return ReturnPredictor(self, spec)


class ReturnPredictor(DecisionTransformer):
    """Tokens s_1, a_1, s_2, a_2, ...: actions are read, and cloned, at the states; the return-to-go
    of a step, its reward included, is read at its action.

    It is asked for nothing: rewards and what follows them are its labels, not its input.
    """

    def __init__(self, config: ReturnPredictorConfig, spec: Spec) -> None:
        super().__init__(config, replace(spec, condition_size=0))
        self.spec, self.estimates, self.weight = spec, config.estimates, config.weight
        self.actions.embed.requires_grad_(True)  # even alone in its window, an action is read
        self.head = nn.Linear(self.backbone.width, 1)

    def fit(self, store: EpisodeStore, conditions: Column) -> None:
        """UserError where success is to be told of returns that are neither 0 nor 1."""
        super().fit(store, conditions)
        if self.estimates == "success":
            binary = bool(((store.returns == 0) | (store.returns == 1)).all())
            require(
                binary and self.spec.discount == 1,
                "policy.estimates success needs returns of 0 or 1, and --conditioning.discount 1;"
                " take --policy.estimates return",
            )

    def weights(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return super().weights(batch, rng) | {"return": batch.mask}

    def forward(self, batch: Batch, rng: torch.Generator) -> Losses:
        hidden = self.backbone(self.all_tokens(self.encoded(batch)))
        rewards, values = batch.conditions.unbind(-1)
        found, returns = self._read(hidden), rewards + self.spec.discount * values
        if self.estimates == "success":
            errors = F.binary_cross_entropy_with_logits(found, returns, reduction="none")
        else:
            errors = (found - returns) ** 2
        actions = self.actions.losses(hidden[:, self.states], batch, rng)
        return actions | {"return": self.weight * errors}

    def expected(self, batch: Batch) -> Tensor:
        """The return-to-go, or the probability of success, once each action is known: [B, T]."""
        found = self._read(self.backbone(self.all_tokens(self.encoded(batch))))
        return found.sigmoid() if self.estimates == "success" else found

    def _read(self, hidden: Tensor) -> Tensor:
        """hidden [B, 2T, D] -> [B, T] float32."""
        return self.head(hidden[:, 1::2])[..., 0].float()
