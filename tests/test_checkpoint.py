import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from decision_seq import checkpoint
from decision_seq.checkpoint import DataFacts
from decision_seq.config import plain, to_tree
from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation import calibrate, open_checkpoint
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import (
    DecisionTransformerConfig,
    Policy,
    PolicyConfig,
    TrajectoryTransformerConfig,
)
from decision_seq.sequences.conditioning import Conditioning, ReturnToGo, label
from decision_seq.sequences.conditioning.outcome import GoalOutcome, Outcome
from decision_seq.training.optimizers import AdamWConfig
from decision_seq.training.parallel import fill_moments, full_moments, full_weights
from decision_seq.types import Spec, UserError
from tests.conftest import Lines, seal

FACTS = DataFacts(
    "hopper-medium", "a test", "Hopper-v4", "hopper", (3600.0, 1800.0), (-20.0, 3234.0)
)
CONFIG = DecisionTransformerConfig(8, GPTConfig(layers=1, width=16))
TT = TrajectoryTransformerConfig(**TrajectoryTransformerConfig.example)


@pytest.fixture
def trained(store: EpisodeStore, spec: Spec) -> tuple[Policy, torch.optim.Optimizer]:
    torch.manual_seed(0)
    policy = CONFIG.build(spec)
    policy.fit(store, label(store, ReturnToGo(1000.0)))
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    sum(p.square().sum() for p in policy.parameters()).backward()
    optimizer.step()
    return policy, optimizer


@pytest.fixture
def save(tmp_path: Path, trained: tuple, spec: Spec) -> Callable[..., Path]:
    def save(step: int = 5, keep: int = 2, every: int = 0, best: int | None = None) -> Path:
        described = {
            "policy": {"name": "dt", **to_tree(CONFIG)},
            "conditioning": {"name": "return", **to_tree(ReturnToGo(1000.0))},
            "spec": plain(spec),
            "data": plain(FACTS),
        }
        folder = tmp_path / "run" / "checkpoints"
        weights = full_weights(trained[0])
        moments = full_moments(trained[1], trained[0])
        state = {"topology": {}, "scaler": {}}
        tensors = checkpoint.Tensors(weights, moments)
        path = checkpoint.save(folder, step, tensors, described, state)
        checkpoint.prune(folder, step, keep, every, best)
        return path

    return save


def test_a_checkpoint_is_enough_to_roll_out(save: Callable[..., Path], trained: tuple) -> None:
    loaded = checkpoint.load(save())
    assert loaded.facts == FACTS
    assert loaded.conditioning == ReturnToGo(1000.0)
    assert loaded.policy_config == CONFIG
    assert loaded.step == 5
    for name, tensor in trained[0].state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], tensor), name


def test_what_models_outcomes_is_told_their_discount_and_asked_for_nothing(
    make_checkpoint: Callable[..., Path], spec: Spec
) -> None:
    for conditioning in (Outcome(0.9, -100.0), GoalOutcome(goal=(1.0,) * 11)):
        size = conditioning.size
        told = replace(spec, condition_size=size, discount=conditioning.discount)
        path = make_checkpoint(TT, conditioning, told, f"run-{size}")
        loaded = checkpoint.load(path)
        assert (loaded.conditioning, loaded.policy.spec) == (conditioning, told)
        with pytest.raises(UserError, match="asked for nothing"):
            open_checkpoint(path, targets=[3600.0])
        with pytest.raises(UserError, match="asked for nothing"):
            calibrate(open_checkpoint(path), 3)


@pytest.mark.parametrize(
    ("config", "of", "size"),
    [(CONFIG, ReturnToGo(9.0), 2), (TT, Outcome(0.9), 13), (TT, Outcome(), 2)],
    ids=["too wide", "a goal too many", "another discount"],
)
def test_a_policy_of_other_labels_is_refused(
    config: PolicyConfig,
    of: Conditioning,
    size: int,
    make_checkpoint: Callable[..., Path],
    spec: Spec,
) -> None:
    path = make_checkpoint(config, of, replace(spec, condition_size=size, discount=0.9))
    with pytest.raises(UserError, match="its spec does not fit its conditioning"):
        checkpoint.load(path)


def test_a_checkpoint_from_before_there_was_a_discount(save: Callable[..., Path]) -> None:
    path = save()
    text = (path / "config.yaml").read_text()
    assert "discount: 1.0" in text
    (path / "config.yaml").write_text(text.replace("  discount: 1.0\n", ""))
    assert "discount" not in (path / "config.yaml").read_text()
    assert checkpoint.load(seal(path)).policy.spec.discount == 1.0


def test_the_newest_are_kept_and_the_newest_is_found(save: Callable[..., Path]) -> None:
    paths = [save(step) for step in (5, 10, 100)]
    assert checkpoint.checkpoints(paths[0].parent) == paths[1:]
    assert checkpoint.find(paths[0].parent.parent) == paths[2]
    assert checkpoint.find(paths[1]) == paths[1]


def test_what_is_to_be_kept_for_good_is_kept(save: Callable[..., Path]) -> None:
    for step in range(1, 13):
        folder = save(step, keep=2, every=5, best=3).parent
    assert [path.name[-2:] for path in checkpoint.checkpoints(folder)] == [
        *("03", "05", "10", "11", "12")
    ]


def test_the_optimizer_comes_back(save: Callable[..., Path], trained: tuple, spec: Spec) -> None:
    path = save()
    policy = CONFIG.build(spec)
    other = torch.optim.AdamW(policy.parameters(), fused=True)
    moments = checkpoint.read_moments(path, policy, AdamWConfig())
    fill_moments(other, policy, moments, [], Accelerator(cpu=True))
    for mine, theirs in zip(
        trained[1].state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        assert torch.equal(mine["exp_avg_sq"], theirs["exp_avg_sq"])
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])
        assert mine["step"] == theirs["step"] == 1
        assert mine["step"].dtype == theirs["step"].dtype


def test_a_full_disk_leaves_the_former_checkpoint(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is real: the operating system limits files to 3 kB."""
    former = save(5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot save a checkpoint.*go on from them"):
            save(6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(former.parent) == [former.name]
    assert checkpoint.fault(former) is None
    assert checkpoint.load(former).step == 5


@pytest.mark.parametrize("damage", ["other shape", "missing", "empty"])
def test_moments_that_do_not_fit_are_refused(
    save: Callable[..., Path], trained: tuple, damage: str
) -> None:
    """torch's fused AdamW does not check their shapes and would write past their end."""
    path = save()
    moments = load_file(path / checkpoint.MOMENTS)
    if damage == "other shape":
        moments["exp_avg/positions.norm.weight"] = torch.zeros(3)
    elif damage == "missing":
        del moments["exp_avg_sq/positions.norm.weight"]
    else:
        moments = {}
    save_file(moments, path / checkpoint.MOMENTS)
    with pytest.raises(UserError, match=r"optimizer\.safetensors has no \w+ that fits \w+"):
        checkpoint.read_moments(path, trained[0], AdamWConfig())


def _flip(name: str) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)

    return flip


def _cut(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:50])


def _without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


FILES = (checkpoint.WEIGHTS, checkpoint.MOMENTS, checkpoint.CONFIG, checkpoint.STATE)


@pytest.mark.parametrize(
    "damage",
    [
        *(_cut(name) for name in FILES),
        *(_without(name) for name in FILES),
        *(_flip(name) for name in FILES[:3]),
        lambda path: (path / checkpoint.STATE).write_text('{"step": 10, "sha256": 3}'),
    ],
)
def test_the_newest_sound_checkpoint_is_found(
    save: Callable[..., Path], damage: Callable[[Path], None]
) -> None:
    """A damaged checkpoint, as left by a crash of the machine, is skipped with a line."""
    older, newer = save(5), save(10)
    reporter = Lines()
    assert checkpoint.newest_sound(older.parent, reporter) == newer
    assert reporter.lines == []
    damage(newer)
    assert checkpoint.newest_sound(older.parent, reporter) == older
    assert reporter.lines[0].startswith(f"skipped the damaged checkpoint {newer}: ")
    assert len(reporter.lines) == 1
    save(10)
    assert checkpoint.newest_sound(older.parent, reporter) == newer
    damage(newer)
    damage(older)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        checkpoint.newest_sound(older.parent, reporter)
    assert checkpoint.newest_sound(older.parent / "none", reporter) is None


def test_what_a_kill_left_is_swept(save: Callable[..., Path]) -> None:
    path = save(5)
    partial = path.parent / f"{checkpoint.PARTIAL}step-00000006"
    (partial / "trainer").mkdir(parents=True)
    assert checkpoint.checkpoints(path.parent) == [path]
    checkpoint.sweep(path.parent)
    assert os.listdir(path.parent) == [path.name]


def _nan_weights(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["actions.head.bias"][1] = float("nan")
    save_file(weights, path / "model.safetensors")


def _edited(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        file = path / "config.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return edit


def _no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def _cut_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def _no_spec(path: Path) -> None:
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("spec:", "specification:"))


def _other_width(path: Path) -> None:
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("width: 16", "width: 32"))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_no_weights, "has no model.safetensors"),
        (_cut_weights, "model.safetensors is damaged"),
        (_nan_weights, "actions.head.bias holds NaN"),
        (_no_spec, "spec"),
        (_edited("action_size: 3", "action_size: three"), "config.yaml lacks or misstates"),
        (_edited("max_timestep: 1000", "max_timestep: null"), "config.yaml lacks or misstates"),
        (_edited("max_timestep: 1000", "max_timestep: -1"), "misstates max_timestep"),
        (_edited("max_timestep: 1000", "max_timestep: 0.5"), "misstates max_timestep"),
        (_edited("first_choice: 0", "first_choice: x"), "misstates first_choice"),
        (_edited("action_kind: continuous", "action_kind: odd"), "misstates action_kind"),
        (
            _edited("action_range: null", "action_range: [[-1e308, 0, 0], [1e308, 1, 1]]"),
            "misstates action_range",
        ),
        (_edited("scale: 1000.0", "scale: null"), "the scale is not resolved"),
        (_other_width, "does not fit this policy"),
        (lambda path: (path / "config.yaml").unlink(), "config.yaml"),
        (lambda path: (path / "config.yaml").write_text("a: [1"), "not valid YAML"),
        (lambda path: (path / checkpoint.STATE).write_text("{"), "state.json"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_damaged_checkpoint_is_named(save: Callable[..., Path], damage, named: str) -> None:
    path = save()
    damage(path)
    if named not in ("state.json", "does not exist"):
        seal(path)  # the faults of files whose checksums are right
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise training would go on from an older one."""
    path, real = make_checkpoint(), os.open

    def refused(name: Path, *more: int) -> int:
        if os.fspath(name).endswith(checkpoint.WEIGHTS):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *more)

    assert checkpoint.fault(path) is None
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match="cannot be read now: Too many open files"):
        checkpoint.newest_sound(path.parent, Lines())
