"""Every optimizer of the registry: what it remembers is saved, and a resumed run is the same."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from decision_seq import checkpoint
from decision_seq import config as configs
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.runs import experiment
from decision_seq.runs.resolve import Config
from decision_seq.training import TrainConfig
from decision_seq.training.groups import LR_SCALE, make_groups, make_optimizer, set_rate
from decision_seq.training.optimizers import OptimizerConfig
from decision_seq.training.parallel import fill_moments, full_moments, full_weights, group_counts
from decision_seq.types import Spec, UserError
from tests.test_train import TINY, losses

NAMES = sorted(OptimizerConfig.get_known_choices())
RATE = 1e-2


def config(name: str, **train: Any) -> TrainConfig:
    chosen = OptimizerConfig.get_choice_class(name)()
    return TrainConfig(optimizer=chosen, learning_rate=RATE, weight_decay=0.01, **train)


def make_policy() -> Policy:
    torch.manual_seed(0)
    backbone = GPTConfig(1, 1, 8, 0.0)
    return DecisionTransformerConfig(3, backbone).build(Spec((4,), 2, "continuous", 1, 10))


@dataclasses.dataclass
class Run:
    """A policy and its optimizer, with gradients that follow from the number of the update."""

    policy: Policy
    optimizer: torch.optim.Optimizer

    def steps(self, first: int, last: int) -> dict[str, Tensor]:
        for step in range(first, last):
            draw = torch.Generator().manual_seed(step)
            for weight in self.policy.parameters():
                weight.grad = torch.randn(weight.shape, generator=draw)
            set_rate(self.optimizer, RATE)
            self.optimizer.step()
        return {n: w.detach().clone() for n, w in self.policy.named_parameters()}


def begin(name: str) -> Run:
    policy = make_policy()
    return Run(policy, make_optimizer(policy, config(name)))


def go_on(name: str, weights: dict[str, Tensor]) -> Run:
    """A fresh optimizer over saved weights."""
    found = begin(name)
    found.policy.load_state_dict(weights)
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


@dataclasses.dataclass
class Saved:
    """A checkpoint after three updates, and the weights after three more."""

    name: str
    path: Path
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: dict[str, Any]
    groups: int
    whole: dict[str, Tensor]

    @property
    def config(self) -> OptimizerConfig:
        return OptimizerConfig.get_choice_class(self.name)()

    def restored(self) -> dict[str, Tensor]:
        """The weights of a fresh run that goes on from the files as they are."""
        run = go_on(self.name, checkpoint.read_weights(self.path))
        moments = checkpoint.read_moments(self.path, run.policy, self.config)
        checkpoint.check_counts(self.state, self.config, self.groups, self.path)
        counts = self.state.get("optimizer", [])
        fill_moments(run.optimizer, run.policy, moments, counts, Accelerator(cpu=True))
        return run.steps(3, 6)

    def hold(self, moments: dict[str, Tensor]) -> None:
        save_file(moments, self.path / checkpoint.MOMENTS)


@pytest.fixture(params=NAMES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Saved:
    name = request.param
    run = begin(name)
    run.steps(0, 3)
    weights = {n: w.clone() for n, w in full_weights(run.policy).items()}
    moments = {n: w.clone() for n, w in full_moments(run.optimizer, run.policy).items()}
    counts = [dict(group) for group in group_counts(run.optimizer)]
    state = {"optimizer": counts} if any(counts) else {}
    path = checkpoint.save(tmp_path, 3, checkpoint.Tensors(weights, moments), {}, state)
    state = checkpoint.read_trainer(path)
    groups = len(run.optimizer.param_groups)
    return Saved(name, path, weights, moments, state, groups, run.steps(3, 6))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_every_weight(name: str) -> None:
    run = begin(name)
    before = {n: w.detach().clone() for n, w in run.policy.named_parameters()}
    after = run.steps(0, 1)
    assert all((after[n] != before[n]).any() and after[n].isfinite().all() for n in before)


def test_a_resumed_run_is_the_same_to_the_bit(saved: Saved) -> None:
    assert same(saved.restored(), saved.whole)


def test_moments_that_are_lost_are_noticed(saved: Saved) -> None:
    fresh = go_on(saved.name, saved.weights).steps(3, 6)
    assert not same(fresh, saved.whole)


def test_what_is_remembered_is_declared(saved: Saved) -> None:
    """A tensor that is not declared may be dropped, and changes nothing."""
    declared = {*saved.config.moments, *saved.config.counts}
    assert declared <= {key.partition("/")[0] for key in saved.moments}
    saved.hold({k: v for k, v in saved.moments.items() if k.partition("/")[0] in declared})
    assert same(saved.restored(), saved.whole)
    found = [set(counts) for counts in saved.state.get("optimizer", [])]
    wanted = set(saved.config.group_counts)
    assert found == ([wanted] * saved.groups if wanted else [])


def test_a_tensor_that_is_lacking_is_refused(saved: Saved) -> None:
    declared = {*saved.config.moments, *saved.config.counts}
    policy = make_policy()
    for lacking in saved.moments:
        key, _, weight = lacking.partition("/")
        if key in declared:
            saved.hold({k: v for k, v in saved.moments.items() if k != lacking})
            with pytest.raises(UserError, match=f"no {key} that fits {weight}"):
                checkpoint.read_moments(saved.path, policy, saved.config)


def test_a_count_that_is_lacking_is_refused(saved: Saved) -> None:
    whole = saved.state.get("optimizer", [])
    if not saved.config.group_counts:
        assert whole == []
        saved.state["optimizer"] = [{"step": 3}] * saved.groups  # of another optimizer
        with pytest.raises(UserError, match="what the optimizer counts"):
            saved.restored()
        return
    lacking = [[], whole[:-1]]
    for at, counts in enumerate(whole):
        for key in counts:
            dropped = [dict(counts) for counts in whole]
            del dropped[at][key]
            lacking.append(dropped)
    for counts in lacking:
        saved.state["optimizer"] = counts
        with pytest.raises(UserError, match="what the optimizer counts"):
            saved.restored()


@pytest.mark.parametrize("name", NAMES)
def test_decay_acts_on_its_groups_alone(name: str) -> None:
    """Without gradients only weights that decay move."""
    policy = make_policy()
    optimizer = make_optimizer(policy, config(name, decay="weights"))
    names = {weight: n for n, weight in policy.named_parameters()}
    decayed = {names[w] for g in optimizer.param_groups if g["weight_decay"] for w in g["params"]}
    before = {n: w.detach().clone() for n, w in policy.named_parameters()}
    for weight in policy.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = {n for n, w in policy.named_parameters() if not torch.equal(w, before[n])}
    assert moved == {n for n in decayed if before[n].any()}
    assert 0 < len(moved) < len(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_has_its_share_of_the_rate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    first, *others = policy.parameters()
    groups = [{"params": [first], LR_SCALE: 0.0}, {"params": others, LR_SCALE: 0.5}]
    monkeypatch.setattr(type(policy), "parameter_groups", lambda self: groups)
    chosen = config(name)
    made = make_groups(policy, chosen.decay, chosen.weight_decay)
    optimizer = chosen.optimizer.build(made, RATE, chosen.betas)
    set_rate(optimizer, RATE)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.0, 0.5 * RATE]
    before = [weight.detach().clone() for weight in policy.parameters()]
    Run(policy, optimizer).steps(0, 1)
    unmoved, *moved = map(torch.equal, policy.parameters(), before)
    assert unmoved
    assert not any(moved)


def test_a_package_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(UserError, match=r"lamb needs the package pytorch-optimizer") as error:
        make_optimizer(make_policy(), config("lamb"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    chosen = OptimizerConfig.get_choice_class(name)
    for fits, how in ((chosen.graphs, {"cuda_graph": True}), (chosen.shards, {"parallel": "fsdp"})):
        if fits:
            config(name, **how)
            continue
        with pytest.raises(UserError, match=f"train.optimizer.name {name} "):
            config(name, **how)


def test_a_run_by_lamb_goes_on_to_the_bit(write_d4rl: Callable[..., Path], tmp_path: Path) -> None:
    dataset = str(write_d4rl())

    def train(output: Path, steps: int, resume: str) -> dict[int, float]:
        asked = {"steps": steps, "checkpoint_every": 3, "optimizer": {"name": "lamb"}}
        tree = {"dataset": dataset, "train": {**asked, "trackers": []}}
        experiment.train(configs.load(Config, TINY, tree), output, resume)
        return losses(output)

    whole = train(tmp_path / "whole", 6, "never")
    train(tmp_path / "parts", 3, "never")
    assert train(tmp_path / "parts", 6, "auto") == whole
    files = [
        checkpoint.read_weights(checkpoint.find(tmp_path / part)) for part in ("whole", "parts")
    ]
    assert same(*files)
