"""Tests that the operations of an update, a rollout step and a plan do not grow unnoticed.

The numbers do not depend on the machine or its load. Lower them when something becomes cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from decision_seq.bench import planning, steps
from decision_seq.bench.counting import Counts, alone, counted, dt_update_flops
from decision_seq.bench.planning import make_policy, plans
from decision_seq.bench.sampling import write_random_store
from decision_seq.bench.steps import make_update
from decision_seq.bench.training import FP32, _batch, make_entrants
from decision_seq.config import load
from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation.acting import PolicyActor, SlidingActor
from decision_seq.evaluation.episode_rows import SLOTS
from decision_seq.models.fast.sliding_decode import FoldedTransformer
from decision_seq.models.layers import Block, Dropout, select
from decision_seq.policies import Policy, PolicyConfig
from decision_seq.recipes import recipe_trees
from decision_seq.training import TrainConfig
from decision_seq.training.update import Update
from decision_seq.types import Batch, Reporter

BY_FORMULA = dt_update_flops(batch=64, context=20, observation=11, action=3)
# Operators dispatched by an update, and bytes newly allocated by them.
UPDATES = {"dt/paper": (635, 255_288_800), "dt/gym": (428, 196_596_968)}
SPARE = 1.03  # another version of torch may dispatch a few more
# FLOPs of one step of a full policy batch, with dt/gym's model, from all tokens and from only the
# new ones; FLOPs of a plan (horizon 2, 4 beams, 3 environments).
STEP, SLID, PLAN = 434_128_896, 317_114_368, 1_081_488_384
SLID_OPERATORS = 126


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the linear layers of a processor with AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Update]:
    """Function that makes a recipe's update after its first one, with optimiser moments."""

    def made(recipe: str) -> Update:
        write_random_store(tmp_path / "store", 2, Reporter())
        tree = recipe_trees(recipe)[0]
        config, policy = load(TrainConfig, tree["train"]), load(PolicyConfig, tree["policy"])
        store = EpisodeStore.open(tmp_path / "store")
        update = make_update(store, Accelerator(cpu=True), config, policy)
        update(0)
        return update

    return made


def of_update(update: Update) -> Counts:
    return counted(lambda: update(1))


@pytest.mark.parametrize("recipe", UPDATES)
def test_an_update_consists_of_no_more_than_it_did(
    make: Callable[[str], Update], recipe: str
) -> None:
    counts = of_update(make(recipe))
    operators, allocated = UPDATES[recipe]
    assert counts.flops == BY_FORMULA
    assert counts.operators <= operators * SPARE
    assert counts.allocated <= allocated * SPARE


def test_what_the_benchmark_counts_is_by_formula() -> None:
    (ours,) = (entrant for entrant in make_entrants(_batch()) if entrant.name == FP32)
    counts = counted(ours.update)
    assert counts.flops == BY_FORMULA
    assert counted(alone(counts.products)).flops == BY_FORMULA


def of_step(update: Update, slides: bool = False) -> Counts:
    """Counts of one rollout step: the newest action of every environment slot."""
    policy = update.policy.eval()
    batch, steps = _batch(), 2 if slides else 20
    rows = {n: array[:SLOTS, :steps] for n, array in vars(batch).items() if array is not None}
    actor = (SlidingActor if slides else PolicyActor)(policy, 1, SLOTS, 20)

    @torch.inference_mode()
    def act() -> None:
        actor.decide(0, policy.encoded(Batch(**rows)), None)

    return counted(act)


def test_a_rollouts_step_multiplies_no_more_than_it_did(make: Callable[[str], Update]) -> None:
    update = make("dt/gym")
    assert of_step(update).flops <= STEP
    counts = of_step(update, slides=True)
    assert counts.flops <= SLID
    assert counts.operators <= SLID_OPERATORS * SPARE


def test_a_plan_multiplies_no_more_than_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BEAMS", 4)
    assert counted(plans(make_policy().eval(), 2, 3)).flops <= PLAN


# The following tests show that the bounds above are tight enough.


def test_a_last_block_computed_for_every_token_is_noticed(
    make: Callable[[str], Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Block.forward

    def whole(self: Block, tokens: Tensor, read: Any = None, mask: Any = None) -> Tensor:
        every = forward(self, tokens, None, mask)
        return every if read is None else select(every, read)

    monkeypatch.setattr(Block, "forward", whole)
    update = make("dt/paper")
    counts = of_update(update)
    assert counts.flops > BY_FORMULA
    assert counts.allocated > UPDATES["dt/paper"][1] * SPARE
    assert of_step(update).flops > STEP


def test_tokens_computed_again_are_noticed(
    make: Callable[[str], Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    newest_hidden = FoldedTransformer.newest_hidden

    def again(self: FoldedTransformer, stored: list[Tensor], *more: Tensor) -> Tensor:
        return newest_hidden(self, self.per_token(stored[0]), *more)

    monkeypatch.setattr(FoldedTransformer, "newest_hidden", again)
    assert of_step(make("dt/gym"), slides=True).flops > SLID


def test_plain_dropout_is_noticed(
    make: Callable[[str], Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Dropout, "forward", lambda self, x: x * torch.rand_like(x).ge(self.probability) / 0.9
    )
    assert of_update(make("dt/paper")).allocated > UPDATES["dt/paper"][1] * SPARE


def test_an_optimiser_that_takes_weight_by_weight_is_noticed(
    make: Callable[[str], Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.AdamW(policy.parameters(), foreach=False, fused=False)

    monkeypatch.setattr(steps, "make_optimizer", slow)
    assert of_update(make("dt/gym")).operators > UPDATES["dt/gym"][0] * SPARE


def test_planning_without_a_cache_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BEAMS", 4)
    uncached = counted(plans(make_policy().eval(), 2, 3, planning.Uncached))
    assert uncached.flops > PLAN
