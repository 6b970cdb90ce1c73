"""Checkpoints: a directory, written beside its name and renamed when whole.

    model.safetensors     weights and everything fitted (statistics are buffers)
    config.yaml           the run's resolved configuration and the data's facts
    trainer/state.json    step, world size
    trainer/optimizer.pt  the optimiser's tensors, read with `weights_only`

Nothing is ever unpickled unrestricted. Evaluation needs the checkpoint alone, not the dataset.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from decision_seq.config import load as load_config
from decision_seq.config import read_yaml
from decision_seq.data.conditioning import Conditioning
from decision_seq.policies.base import Policy, PolicyConfig
from decision_seq.types import Spec, UserError

PREFIX = "step-"


@dataclass(frozen=True)
class DataFacts:
    """What evaluation must know of the data, so that it never opens them.

    dataset: the name asked for; source: what was really used; env_id: where to evaluate; family:
    the task, a key of `envs.FACTS`; reference_scores: (random, expert) raw returns, by which
    returns are normalised; targets: the pre-declared raw returns.
    """

    dataset: str
    source: str
    env_id: str | None
    family: str | None
    targets: tuple[float, ...]
    reference_scores: tuple[float, float] | None


@dataclass(frozen=True)
class Loaded:
    """A policy with everything needed to roll it out."""

    policy: Policy
    policy_config: PolicyConfig
    conditioning: Conditioning
    facts: DataFacts
    step: int
    path: Path


def save(
    folder: Path,
    step: int,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    described: dict[str, Any],
    trainer: dict[str, Any],
    keep: int,
) -> Path:
    """Write `folder/step-NNNNNNNN`; keep the newest `keep`. UserError when the disk refuses.

    described: the run's config, and the `spec` and `data` facts that `load` needs.
    """
    final = folder / f"{PREFIX}{step:08d}"
    partial = folder / f".partial-{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "trainer").mkdir(parents=True)
        weights = {name: tensor.contiguous().cpu() for name, tensor in policy.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        (partial / "config.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
        torch.save(optimizer.state_dict(), partial / "trainer" / "optimizer.pt")
        (partial / "trainer" / "state.json").write_text(json.dumps({"step": step, **trainer}))
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
    except (OSError, SafetensorError, RuntimeError) as error:  # each writer reports in its own way
        shutil.rmtree(partial, ignore_errors=True)
        reason = (
            error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        )
        raise UserError(f"cannot save a checkpoint in {folder}: {reason}") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def find(path: Path) -> Path:
    """The checkpoint itself, or the newest one of a run. UserError when there is none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder or one of its checkpoints")
    if (path / "trainer").is_dir():
        return path
    found = checkpoints(path / "checkpoints")
    if not found:
        raise UserError(
            f"{path} holds no checkpoint; give a run's folder or one of its checkpoints"
        )
    return found[-1]


def _data_facts(tree: dict[str, Any]) -> DataFacts:
    scores = tree["reference_scores"]
    low_high = None if scores is None else (float(scores[0]), float(scores[1]))
    return DataFacts(**{**tree, "targets": tuple(tree["targets"]), "reference_scores": low_high})


def load(path: Path, device: torch.device | str = "cpu") -> Loaded:
    """Rebuild the policy of a checkpoint (or of a run's newest). UserError when it is damaged."""
    path = find(path)
    tree = read_yaml(path / "config.yaml")
    try:
        spec_tree = tree["spec"]
        spec = Spec(**{**spec_tree, "observation_shape": tuple(spec_tree["observation_shape"])})
        facts = _data_facts(tree["data"])
        policy_config = load_config(PolicyConfig, tree["policy"])
        conditioning = load_config(Conditioning, tree["conditioning"])
        policy = policy_config.build(spec)
    except UserError:
        raise
    except Exception as error:  # whatever a hand-edited file makes of our constructors
        raise UserError(f"checkpoint {path}: config.yaml lacks or misstates {error}") from error
    load_weights(policy, path)
    step = read_trainer(path)["step"]
    return Loaded(policy.to(device), policy_config, conditioning, facts, step, path)


def load_weights(policy: Policy, path: Path) -> None:
    """Fill the policy from model.safetensors; UserError when it is absent or does not fit."""
    file = path / "model.safetensors"
    if not file.is_file():
        raise UserError(
            f"checkpoint {path} has no model.safetensors; resume or evaluate another one"
        )
    try:
        weights = load_file(file)
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise UserError(f"checkpoint {path}: {name} holds NaN or infinity; use another one")
        policy.load_state_dict(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path}: model.safetensors is damaged ({error})") from error
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path} does not fit this policy: {first}") from error


def read_trainer(path: Path) -> dict[str, Any]:
    """The trainer's state (step, world size); UserError when damaged."""
    try:
        state = json.loads((path / "trainer" / "state.json").read_text())
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: trainer/state.json is missing or damaged") from error


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Fill the optimiser; UserError when its file is missing, damaged or of another model."""
    try:
        state = torch.load(path / "trainer" / "optimizer.pt", map_location="cpu", weights_only=True)
        _check_moments(optimizer, state)
        optimizer.load_state_dict(state)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors of its own
        raise UserError(
            f"checkpoint {path}: trainer/optimizer.pt cannot be read ({error})"
        ) from error


def _check_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Every trained weight must have moments of its own shape: the fused kernel does not check."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if len(state["state"]) != len(weights):
        raise ValueError(f"it has {len(state['state'])} of {len(weights)} weights' moments")
    for index, weight in enumerate(weights):
        for name in ("exp_avg", "exp_avg_sq"):
            if state["state"][index][name].shape != weight.shape:
                raise ValueError(f"{name} of weight {index} has another shape than the weight")
