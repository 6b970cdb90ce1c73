import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decision_seq import checkpoint
from decision_seq.checkpoint import DataFacts
from decision_seq.config import plain, to_tree
from decision_seq.data.conditioning import ReturnToGo
from decision_seq.data.store import EpisodeStore
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, Policy
from decision_seq.types import Spec, UserError

FACTS = DataFacts(
    "hopper-medium", "a test", "Hopper-v4", "hopper", (3600.0, 1800.0), (-20.0, 3234.0)
)
CONFIG = DecisionTransformerConfig(8, GPTConfig(layers=1, width=16))


@pytest.fixture
def trained(store: EpisodeStore, spec: Spec) -> tuple[Policy, torch.optim.Optimizer]:
    torch.manual_seed(0)
    policy = CONFIG.build(spec)
    policy.fit(store)
    optimizer = torch.optim.AdamW(policy.parameters())
    sum(p.square().sum() for p in policy.parameters()).backward()
    optimizer.step()
    return policy, optimizer


@pytest.fixture
def save(tmp_path: Path, trained: tuple, spec: Spec) -> Callable[..., Path]:
    def save(step: int = 5, keep: int = 2) -> Path:
        described = {
            "policy": {"name": "dt", **to_tree(CONFIG)},
            "conditioning": {"name": "return", **to_tree(ReturnToGo(1000.0))},
            "spec": plain(spec),
            "data": plain(FACTS),
        }
        folder = tmp_path / "run" / "checkpoints"
        return checkpoint.save(folder, step, *trained, described, {"world_size": 1}, keep)

    return save


def test_a_checkpoint_is_enough_to_roll_out(save: Callable[..., Path], trained: tuple) -> None:
    loaded = checkpoint.load(save())
    assert loaded.facts == FACTS
    assert loaded.conditioning == ReturnToGo(1000.0)
    assert loaded.policy_config == CONFIG
    assert loaded.step == 5
    for name, tensor in trained[0].state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], tensor), name


def test_the_newest_are_kept_and_the_newest_is_found(save: Callable[..., Path]) -> None:
    paths = [save(step) for step in (5, 10, 100)]
    assert checkpoint.checkpoints(paths[0].parent) == paths[1:]
    assert checkpoint.find(paths[0].parent.parent) == paths[2]
    assert checkpoint.find(paths[1]) == paths[1]


def test_the_optimizer_comes_back(save: Callable[..., Path], trained: tuple, spec: Spec) -> None:
    path = save()
    other = torch.optim.AdamW(CONFIG.build(spec).parameters())
    checkpoint.load_optimizer(other, path)
    for mine, theirs in zip(
        trained[1].state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        assert torch.equal(mine["exp_avg_sq"], theirs["exp_avg_sq"])
        assert mine["step"] == theirs["step"] == 1


def test_a_refusing_disk_leaves_the_former_checkpoint(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    former = save(5)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(6)
    assert os.listdir(former.parent) == [former.name]
    assert checkpoint.load(former).step == 5


def test_nothing_is_unpickled(save: Callable[..., Path], trained: tuple, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    path = save()
    with open(path / "trainer" / "optimizer.pt", "wb") as file:
        pickle.dump(Harmful(), file)
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_optimizer(trained[1], path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("damage", ["other shape", "missing", "empty"])
def test_moments_that_do_not_fit_are_refused(
    save: Callable[..., Path], trained: tuple, damage: str
) -> None:
    """torch's fused AdamW does not look at their shapes: it writes past the end of them."""
    file = save() / "trainer" / "optimizer.pt"
    state = torch.load(file, weights_only=True)
    if damage == "other shape":
        state["state"][0]["exp_avg"] = torch.zeros(3)
    elif damage == "missing":
        state["state"][0] = {}
    else:
        state["state"] = {}
    torch.save(state, file)
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        checkpoint.load_optimizer(trained[1], file.parent.parent)


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
        (_other_width, "does not fit this policy"),
        (lambda path: (path / "config.yaml").unlink(), "config.yaml"),
        (lambda path: (path / "config.yaml").write_text("a: [1"), "not valid YAML"),
        (lambda path: (path / "trainer" / "state.json").write_text("{"), "state.json"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_damaged_checkpoint_is_named(save: Callable[..., Path], damage, named: str) -> None:
    path = save()
    damage(path)
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
