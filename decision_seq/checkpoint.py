"""Checkpoints: a directory, written beside its name and renamed when whole.

    model.safetensors              weights and everything fitted (statistics are buffers)
    config.yaml                    the run's resolved configuration and the data's facts
    trainer/optimizer.safetensors  the optimizer's tensors, as `exp_avg/NAME`
    trainer/weights.safetensors    weights to train on from, where model.safetensors has averages
    trainer/carried.safetensors    state that windows carry on, rows of the global batch, if any
    trainer/state.json             step, processes, what else the loop carries; the files' sha256

Tensors are whole and named, so any number of processes can go on from it. Nothing is unpickled.
Evaluation needs the checkpoint alone, not the dataset.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from decision_seq.config import load as load_config
from decision_seq.config import read_yaml, require
from decision_seq.data.conditioning import Conditioning
from decision_seq.data.identity import sha256
from decision_seq.policies.base import Policy, PolicyConfig, check_labels
from decision_seq.types import Reporter, Spec, UserError

PREFIX, PARTIAL = "step-", ".partial-"
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
MOMENTS, STATE = "trainer/optimizer.safetensors", "trainer/state.json"
TRAINED, CARRIED_ROWS = "trainer/weights.safetensors", "trainer/carried.safetensors"
ALWAYS = (WEIGHTS, MOMENTS, CONFIG)  # files of every checkpoint that have a checksum
CARRIED = ("topology", "scaler")  # what the loop puts into the state beside the step


@dataclass(frozen=True)
class DataFacts:
    """What evaluation must know of the data, so that it never opens them.

    dataset: the name asked for; source: what was really used; env_id: where to evaluate; family:
    the task, a key of `envs.FACTS`; reference_scores: (random, expert) raw returns, by which
    returns are normalised; targets: the pre-declared raw returns; return_percentiles: the 0th to
    100th of the data's episode returns; checksum: the store's; delayed: rewards came as one sum
    with the last step of an episode. Older checkpoints lack the last three.
    """

    dataset: str
    source: str
    env_id: str | None
    family: str | None
    targets: tuple[float, ...]
    reference_scores: tuple[float, float] | None
    return_percentiles: tuple[float, ...] | None = None
    checksum: str | None = None
    delayed: bool = False

    @property
    def notes(self) -> list[str]:
        """What a reader of scores has to know of them, a sentence each."""
        if not self.delayed:
            return []
        return [
            "delayed rewards: one sum with an episode's last step, in the data and in a rollout"
        ]


@dataclass(frozen=True)
class Loaded:
    """A policy with everything needed to roll it out; config: its run's, as it was saved."""

    policy: Policy
    policy_config: PolicyConfig
    conditioning: Conditioning
    facts: DataFacts
    step: int
    path: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint, whole and by name.

    averages: of the weights, by which the policy acts; None where it acts by the weights. carried:
    state of the global batch's rows; empty where nothing is carried.
    """

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    averages: dict[str, Tensor] | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, dict[str, Tensor]]:
        """By file."""
        files = {WEIGHTS: self.averages or self.weights, MOMENTS: self.moments}
        if self.averages:
            files[TRAINED] = self.weights
        if self.carried:
            files[CARRIED_ROWS] = self.carried
        return files


def save(
    folder: Path,
    step: int,
    tensors: Tensors,
    described: dict[str, Any],
    state: dict[str, Any],
) -> Path:
    """Write `folder/step-NNNNNNNN`, whole or not at all. UserError when the disk refuses.

    described: the run's config, and the `spec` and `data` facts that `load` needs; state: what
    `read_trainer` gives back.
    """
    final = folder / f"{PREFIX}{step:08d}"
    partial = folder / f"{PARTIAL}{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "trainer").mkdir(parents=True)
        for name, held in tensors.files.items():
            save_file(held, partial / name)
        (partial / CONFIG).write_text(yaml.safe_dump(described, sort_keys=False))
        sums = {name: sha256(partial / name) for name in (*tensors.files, CONFIG)}
        text = json.dumps({**state, "step": step, "sha256": sums}, indent=1)
        (partial / STATE).write_text(text)
        for path in [*(partial / name for name in (*sums, STATE)), partial / "trainer", partial]:
            _to_disk(path)
        former = folder / f"{PARTIAL}former-{final.name}"
        if final.exists():  # damaged, else the run would have gone on from it
            os.replace(final, former)
        os.replace(partial, final)
        _to_disk(folder)
        shutil.rmtree(former, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError) as error:  # each writer reports in its own way
        shutil.rmtree(partial, ignore_errors=True)
        reason = (
            error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        )
        raise UserError(
            f"cannot save a checkpoint in {folder}: {reason}; the former ones are whole, go on from"
            " them with --resume"
        ) from error
    return final


def _to_disk(path: Path) -> None:
    """What a crash of the machine must not undo."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(folder: Path, newest: int, last: int, every: int, best: int | None) -> None:
    """Remove all but the newest `last`, those of every `every` updates (0: none) and the best.

    newest: the step just saved; what lies beyond it is damaged, else it had been gone on from.
    """
    written = [path for path in checkpoints(folder) if _step(path) <= newest]
    for path in written[:-last]:
        step = _step(path)
        if step != best and not (every and step % every == 0):
            # Renamed first: a removal cut short leaves nothing that looks like a checkpoint.
            doomed = path.with_name(f"{PARTIAL}{path.name}")
            os.replace(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process had begun to write or to remove."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    named = (path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
    return sorted((path for path in named if path.name[len(PREFIX) :].isdecimal()), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are what was written."""
    try:
        state = read_trainer(path)
        if path.name != f"{PREFIX}{state['step']:08d}":
            return f"{STATE} is of update {state['step']}"
        lacking = [key for key in CARRIED if not isinstance(state.get(key), dict)]
        if lacking:
            return f"{STATE} names no {lacking[0]}"
        sums = state["sha256"]
        extra = [name for name in (TRAINED, CARRIED_ROWS) if name in sums]
        wrong = [name for name in (*ALWAYS, *extra) if sha256(path / name) != sums[name]]
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (KeyError, TypeError):
        return f"{STATE} names no checksums"
    return f"{wrong[0]} is not what was written (checksum)" if wrong else None


def newest_sound(folder: Path, reporter: Reporter) -> Path | None:
    """The newest whole checkpoint, with a line for each newer one; None where there is none at all.

    UserError when there are some and all are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        what = fault(path)
        if what is None:
            return path
        reporter.say(f"skipped the damaged checkpoint {path}: {what}")
    require(not found, f"every checkpoint in {folder} is damaged; remove them to start over")
    return None


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
    low_high = None if scores is None else _numbers(scores, "reference_scores")
    if low_high is not None and (len(low_high) != 2 or low_high[0] == low_high[1]):
        raise ValueError(f"reference_scores {scores}")
    percentiles = tree.get("return_percentiles")
    if percentiles is not None:
        percentiles = _numbers(percentiles, "return_percentiles")
        if len(percentiles) != 101:
            raise ValueError("return_percentiles, which are 101 numbers")
    for key in ("dataset", "source"):
        if not isinstance(tree[key], str):
            raise ValueError(key)
    for key in ("env_id", "family"):
        if not isinstance(tree[key], str | None):
            raise ValueError(key)
    if not isinstance(tree.get("delayed", False), bool):
        raise ValueError("delayed")
    targets = _numbers(tree["targets"], "targets")
    found = {"targets": targets, "reference_scores": low_high, "return_percentiles": percentiles}
    return DataFacts(**{**tree, **found})


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what}, which are finite numbers")
    return numbers


def load(
    path: Path, device: torch.device | str = "cpu", planner: dict[str, Any] | None = None
) -> Loaded:
    """Rebuild the policy of a checkpoint (or of a run's newest). UserError when it is damaged.

    planner: keys of its planner that are to differ from those it was trained with.
    """
    path = find(path)
    tree = read_yaml(path / CONFIG)
    try:
        spec_tree = tree["spec"]
        spec = Spec(**{**spec_tree, "observation_shape": tuple(spec_tree["observation_shape"])})
        facts = _data_facts(tree["data"])
        known = "planner" in tree["policy"]
        require(known or not planner, f"{path} makes no plans: there is no planner to change")
        changed = {"planner": planner} if planner else {}
        policy_config = load_config(PolicyConfig, tree["policy"], changed)
        conditioning = load_config(Conditioning, tree["conditioning"])
        check_labels(policy_config, conditioning)
        conditioning.prompt(np.zeros(1))  # as a rollout will: a scale may be lacking
        labelled = (conditioning.size, conditioning.discount)
        require(
            (spec.condition_size, spec.discount) == labelled,
            f"checkpoint {path}: config.yaml: its spec does not fit its conditioning",
        )
        policy = policy_config.build(spec)
    except UserError:
        raise
    except Exception as error:  # whatever a hand-edited file makes of our constructors
        raise UserError(f"checkpoint {path}: config.yaml lacks or misstates {error}") from error
    load_weights(policy, path)
    step = read_trainer(path)["step"]
    return Loaded(policy.to(device), policy_config, conditioning, facts, step, path, tree)


def load_weights(policy: Policy, path: Path) -> None:
    """Fill the policy from model.safetensors; UserError when it is absent or does not fit."""
    weights = read_weights(path)
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path} does not fit this policy: {first}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every parameter and buffer by name; UserError when they are absent, damaged or NaN."""
    weights = _read_tensors(path, WEIGHTS)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} holds NaN or infinity; use another one")
    return weights


def check_fit(weights: dict[str, Tensor], policy: Policy, path: Path) -> None:
    """UserError unless the policy has just these parameters and buffers, of these shapes."""
    shapes = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    wrong = sorted(
        name
        for name in shapes.keys() | weights.keys()
        if name not in shapes or name not in weights or weights[name].shape != shapes[name]
    )
    require(not wrong, f"checkpoint {path} does not fit this policy: {', '.join(wrong[:3])}")


class Remembered(Protocol):
    """What an optimizer remembers of a weight: see `train.optimizers.OptimizerConfig`."""

    moments: ClassVar[tuple[str, ...]]
    counts: ClassVar[tuple[str, ...]]
    group_counts: ClassVar[tuple[str, ...]]


def check_counts(state: dict[str, Any], optimizer: Remembered, groups: int, path: Path) -> None:
    """UserError unless the trainer's state has every number that the optimizer counts in each of
    its parameter groups."""
    found = state.get("optimizer", [])
    expected = [set(optimizer.group_counts)] * groups if optimizer.group_counts else []
    require(
        [set(counts) for counts in found] == expected,
        f"checkpoint {path}: {STATE} lacks what the optimizer counts, or has other counts",
    )


def read_moments(path: Path, policy: Policy, optimizer: Remembered) -> dict[str, Tensor]:
    """The optimizer's tensors by name; UserError unless each trained weight has those of its shape,
    and nothing has another.

    A fused kernel does not look at their shapes: it writes past the end of them.
    """
    moments = _read_tensors(path, MOMENTS)
    weights = {name: w for name, w in policy.named_parameters() if w.requires_grad}
    for name, weight in weights.items():
        needed = [(key, weight.shape) for key in optimizer.moments]
        needed += [(key, torch.Size(())) for key in optimizer.counts]
        for key, shape in needed:
            found = moments.get(f"{key}/{name}")
            if found is None or found.shape != shape:
                raise UserError(f"checkpoint {path}: {MOMENTS} has no {key} that fits {name}")
    for saved, tensor in moments.items():
        name = saved.partition("/")[2]
        if name not in weights or tensor.shape not in ((), weights[name].shape):
            raise UserError(f"checkpoint {path}: {MOMENTS} has {saved}, which fits no weight")
    return moments


def read_trained_weights(path: Path) -> dict[str, Tensor]:
    """The weights that training goes on from, where the policy acts by averages of them."""
    return _read_tensors(path, TRAINED)


def read_carried(path: Path) -> dict[str, Tensor]:
    """The state that windows carry on, [batch_size, ...] each; empty where nothing was carried."""
    return _read_tensors(path, CARRIED_ROWS) if (path / CARRIED_ROWS).exists() else {}


def _read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    if not (path / name).is_file():
        raise UserError(f"checkpoint {path} has no {name}; resume or evaluate another one")
    try:
        return load_file(path / name)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint {path}: {name} is damaged ({error})") from error


def read_trainer(path: Path) -> dict[str, Any]:
    """The trainer's state; UserError when damaged."""
    try:
        state = json.loads((path / STATE).read_text())
        return {**state, "step": int(state["step"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: trainer/state.json is missing or damaged") from error
