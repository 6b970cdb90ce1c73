"""Checkpoints: directories, each written under a temporary name and renamed when complete.

    model.safetensors              weights, and all fitted statistics (as buffers)
    config.yaml                    the run's resolved configuration and the data's facts
    trainer/optimizer.safetensors  the optimizer's tensors, as `exp_avg/NAME`
    trainer/weights.safetensors    weights that training resumes from, if the model's are averages
    trainer/carried.safetensors    backbone states carried between windows, if any: one row per row
                                   of the global batch
    trainer/state.json             step, seconds trained, processes, the loop's other state; the
                                   files' sha256

Tensors are whole and named, so training can resume on any number of processes. No pickle is read.
Evaluation needs only the checkpoint, not the dataset.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from decision_seq import tensor_files
from decision_seq.at_hand import located
from decision_seq.config import load as load_config
from decision_seq.config import read_yaml, require
from decision_seq.datasets.store.source_files import sha256
from decision_seq.machine import files
from decision_seq.machine.files import flush, grant
from decision_seq.plugins import require_loaded
from decision_seq.policies.base import Policy, PolicyConfig, check_labels
from decision_seq.policies.building import build_to_fit
from decision_seq.reading import YAML_BYTES, Absent, Unreadable, read_bytes, read_record
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Reporter, Spec, UserError
from decision_seq.user_choices import use_again

PREFIX, PARTIAL = "step-", files.PARTIAL
WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
MOMENTS, STATE = "trainer/optimizer.safetensors", "trainer/state.json"
TRAINED, CARRIED_ROWS = "trainer/weights.safetensors", "trainer/carried.safetensors"
ALWAYS = (WEIGHTS, MOMENTS, CONFIG)  # files with a checksum that every checkpoint has
ACTING = (WEIGHTS, CONFIG)  # files with a checksum that a rollout needs
SUMS = "sha256"  # the state's table of checksums; checkpoints of the first version have none
CARRIED = ("topology", "scaler")  # the training loop's own keys of the state


@dataclass(frozen=True)
class DataFacts:
    """Facts of the data that evaluation needs, so that it never opens the data.

    Older checkpoints lack the last three.
    """

    dataset: str
    """The dataset's name in the configuration."""
    source: str
    """Origin of the data that were used."""
    env_id: str | None
    """Environment to evaluate in."""
    family: str | None
    """The task, a key of `envs.FACTS`."""
    targets: tuple[float, ...]
    """Target raw returns, declared before training."""
    reference_scores: tuple[float, float] | None
    """(random, expert) raw returns, which normalise returns."""
    return_percentiles: tuple[float, ...] | None = None
    """The 0th to 100th percentiles of the data's episode returns."""
    checksum: str | None = None
    """Checksum of the store."""
    delayed: bool = False
    """Whether rewards came as one sum with the last step of an episode."""

    @property
    def notes(self) -> list[str]:
        """Notes on the data for a report of scores, one sentence each."""
        if not self.delayed:
            return []
        return [
            "delayed rewards: one sum with an episode's last step, in the data and in a rollout"
        ]


@dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint: the policy with everything needed to roll it out."""

    policy: Policy
    """The policy, with its weights."""
    policy_config: PolicyConfig
    """Its hyper-parameters."""
    conditioning: Conditioning
    """Labels that the policy is conditioned on."""
    facts: DataFacts
    """Facts of the training data."""
    step: int
    """Updates done."""
    path: Path
    """Path of the checkpoint."""
    config: dict[str, Any]
    """The saved `config.yaml`."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint, whole and by name."""

    weights: dict[str, Tensor]
    """Trained weights, and buffers."""
    moments: dict[str, Tensor]
    """The optimizer's tensors."""
    averages: dict[str, Tensor] | None = None
    """Averages of the weights, which the policy acts by; None where it acts by the weights."""
    carried: dict[str, Tensor] = field(default_factory=dict)
    """Backbone states of the global batch's rows; empty where none are carried."""

    @property
    def files(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each file, by its name."""
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
    """Write `folder/step-NNNNNNNN` completely or not at all. UserError when the disk fails.

    described: the run's config, and the `spec` and `data` facts that `load` needs; state: the
    trainer's state, which `read_trainer` returns.
    """
    final = folder / f"{PREFIX}{step:08d}"
    partial = folder / f"{PARTIAL}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        (partial / "trainer").mkdir(parents=True)
        for name, held in tensors.files.items():
            save_file(held, partial / name)
        text = yaml.safe_dump(described, sort_keys=False)
        (partial / CONFIG).write_text(text, encoding="utf-8")
        sums = {name: sha256(partial / name) for name in (*tensors.files, CONFIG)}
        text = json.dumps({**state, "step": step, SUMS: sums}, indent=1)
        (partial / STATE).write_text(text, encoding="utf-8")
        grant(partial)  # safetensors writes private files
        for path in [*(partial / name for name in (*sums, STATE)), partial / "trainer", partial]:
            flush(path)
        former = folder / f"{PARTIAL}former-{final.name}"
        if final.exists():  # a damaged one: a run resumes from a sound one
            os.replace(final, former)
        os.replace(partial, final)
        flush(folder)
        _remove(former)
    except (OSError, SafetensorError, RuntimeError) as error:  # each writer raises its own
        with contextlib.suppress(OSError):
            _remove(partial)
        reason = files.disk_full(error) or getattr(error, "strerror", None)
        reason = reason or " ".join(str(error).split())[:120]
        raise UserError(
            f"cannot save a checkpoint in {folder}: {reason}; {way_on(folder)}"
        ) from error
    return final


def _remove(path: Path) -> None:
    """Remove a folder, or what stands in its place; a link is not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def way_on(folder: Path) -> str:
    """The end of a message on a run that has to stop: whether it can be resumed."""
    if checkpoints(folder):
        return "the checkpoints are whole, go on from them with --resume"
    return "there is no checkpoint yet: begin again"


def require_own(folder: Path) -> None:
    """UserError if the folder of checkpoints is a link: it may lead to those of another run."""
    require(
        not folder.is_symlink(),
        f"{folder} is a link; training writes and removes checkpoints only in the run's own folder:"
        " move them there, or link the run's whole folder",
    )


def prune(folder: Path, newest: int, last: int, every: int, best: int | None) -> None:
    """Remove all but the newest `last`, those of every `every` updates (0: none) and the best.

    newest: the step just saved. Later checkpoints are ignored: they are damaged, because the run
    would otherwise have resumed from them.
    """
    require_own(folder)
    written = [path for path in checkpoints(folder) if _step(path) <= newest]
    for path in written[:-last]:
        step = _step(path)
        if step != best and not (every and step % every == 0):
            # Renamed first, so that an interrupted removal leaves no partial checkpoint.
            doomed = path.with_name(f"{PARTIAL}{path.name}")
            os.replace(path, doomed)
            _remove(doomed)


def sweep(folder: Path) -> None:
    """Remove the partial checkpoints of a killed process, and its other temporary files."""
    for path in folder.glob(f"{PARTIAL}{PREFIX}*"):
        _remove(path)
    for path in folder.glob(f"{PARTIAL}former-*"):
        _remove(path)
    files.sweep(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    named = (path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
    return sorted(filter(_is_numbered, named), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def fault(path: Path, acting: bool = False) -> str | None:
    """Description of the damage to a checkpoint's files; None for a sound checkpoint.

    acting: look at the files that a rollout needs alone. Exported checkpoints have no others, and
    those of the first version have no checksums, so they count as sound. UserError where the system
    cannot open a file now.
    """
    name = STATE
    try:
        state = read_trainer(path)
        if path.name != f"{PREFIX}{state['step']:08d}" and (not acting or _is_numbered(path)):
            return f"{STATE} is of update {state['step']}"
        lacking = [key for key in CARRIED if not isinstance(state.get(key), dict)]
        if lacking and not acting:
            return f"{STATE} names no {lacking[0]}"
        if acting and SUMS not in state:
            return None
        sums = state[SUMS]
        extra = [name for name in (TRAINED, CARRIED_ROWS) if name in sums]
        for name in ACTING if acting else (*ALWAYS, *extra):
            expected = sums[name]
            if _checksum(path / name) != expected:
                return f"{name} is not what was written (checksum)"
    except Absent:
        return f"it has no {name}"
    except UserError as error:
        now = files.unavailable(error)
        if now is not None:  # it may be sound: training must not go on from an older one
            raise UserError(f"checkpoint {path} cannot be read now: {now}") from error
        return str(error)
    except (KeyError, TypeError):
        return f"{STATE} names no checksums"
    return None


def _checksum(path: Path) -> str:
    """Digest of a file that is no larger than such a file can be; else it could take hours."""
    if path.suffix == ".safetensors":
        tensor_files.shapes(path)
    else:
        read_bytes(path, YAML_BYTES)
    return sha256(path)


def _is_numbered(path: Path) -> bool:
    return path.name.startswith(PREFIX) and path.name[len(PREFIX) :].isdecimal()


def newest_sound(folder: Path, reporter: Reporter, acting: bool = False) -> Path | None:
    """The newest sound checkpoint; reports each damaged one after it. None in an empty folder.

    acting: see `fault`. UserError when all checkpoints are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        what = fault(path, acting)
        if what is None:
            return path
        reporter.say(f"skipped the damaged checkpoint {path}: {what}")
    mend = "name another run" if acting else "remove them to start over"
    require(not found, f"every checkpoint in {folder} is damaged; {mend}")
    return None


def find_sound(path: Path, reporter: Reporter | None = None) -> Path:
    """As `find`, with the files that a rollout needs held against their checksums.

    UserError for a damaged checkpoint. With a reporter, the newest sound one of a run is taken, and
    each damaged one after it is reported.
    """
    newest = find(path)
    if reporter is not None and newest.parent == Path(path) / "checkpoints":
        return newest_sound(newest.parent, reporter, acting=True) or newest
    what = fault(newest, acting=True)
    require(what is None, f"checkpoint {newest}: {what}; use another one")
    return newest


def find(path: Path) -> Path:
    """Path of a checkpoint: `path` itself, the newest of a run, or a policy at hand.

    UserError when there is none.
    """
    path = located(Path(path))
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


def run_of(path: Path) -> Path:
    """The run's folder of a checkpoint; the checkpoint itself where it is in no run."""
    folder = path.resolve().parent
    return folder.parent if folder.name == "checkpoints" else path


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
    path: Path,
    device: torch.device | str = "cpu",
    planner: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Loaded:
    """Rebuild the policy of a checkpoint, or of a run's newest. UserError when it is damaged.

    planner: keys of its planner that replace the saved ones. reporter: see `find_sound`.
    """
    path = find_sound(path, reporter)
    state = read_trainer(path)
    if reporter is not None and SUMS not in state:
        reporter.say(f"{path} is of an older version without checksums: its files are not checked")
    tree = read_yaml(path / CONFIG)
    use_again(run_of(path))
    require_loaded(tree.get("plugins") or (), f"checkpoint {path}")
    shapes = _shapes(path, WEIGHTS)
    try:
        spec = Spec.of(tree["spec"])
        facts = _data_facts(tree["data"])
        known = "planner" in tree["policy"]
        require(known or not planner, f"{path} makes no plans: there is no planner to change")
        changed = {"planner": planner} if planner else {}
        policy_config = load_config(PolicyConfig, tree["policy"], changed)
        conditioning = load_config(Conditioning, tree["conditioning"])
        check_labels(policy_config, conditioning)
        conditioning.prompt(np.zeros(1))  # as in a rollout: fails without a scale
        labelled = (conditioning.size, conditioning.discount)
        require(
            (spec.condition_size, spec.discount) == labelled,
            f"checkpoint {path}: config.yaml: its spec does not fit its conditioning",
        )
        policy = build_to_fit(policy_config, spec, shapes)
    except UserError:
        raise
    except Exception as error:  # a hand-edited file can raise any error in the constructors
        raise UserError(f"checkpoint {path}: config.yaml lacks or misstates {error}") from error
    weights = read_weights(path, checked=True)
    check_fit(weights, policy, path)
    policy.load_state_dict(weights)
    return Loaded(policy.to(device), policy_config, conditioning, facts, state["step"], path, tree)


def read_weights(path: Path, name: str = WEIGHTS, checked: bool = False) -> dict[str, Tensor]:
    """Every parameter and buffer by name; UserError when they are absent, damaged or NaN.

    name: WEIGHTS, by which the policy acts, or TRAINED, from which training resumes where the
    policy acts by averages. checked: whether `fault` has compared the file with its checksum.
    """
    if not checked:
        what = fault(path, acting=name == WEIGHTS)
        require(what is None, f"checkpoint {path}: {what}; use another one")
    weights = _read_tensors(path, name)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} holds NaN or infinity; use another one")
    return weights


def check_fit(weights: dict[str, Tensor], policy: Policy, path: Path) -> None:
    """UserError unless the weights have the policy's parameter and buffer names and shapes."""
    shapes = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    wrong = sorted(
        name
        for name in shapes.keys() | weights.keys()
        if name not in shapes or name not in weights or weights[name].shape != shapes[name]
    )
    require(not wrong, f"checkpoint {path} does not fit this policy: {', '.join(wrong[:3])}")


class Remembered(Protocol):
    """Names of an optimizer's tensors of a weight: see `training.optimizers.OptimizerConfig`."""

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
    """The optimizer's tensors by name.

    UserError unless each trained weight has its tensors in its shape, and no others exist. A fused
    kernel does not check the shapes and would write past the end of a tensor.
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


def read_carried(path: Path) -> dict[str, Tensor]:
    """Carried backbone states by name, [batch_size, ...] each; empty where none were carried."""
    return _read_tensors(path, CARRIED_ROWS) if (path / CARRIED_ROWS).exists() else {}


def _read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    with _named(path, name):
        return tensor_files.load(path / name)


def _shapes(path: Path, name: str) -> tensor_files.Shapes:
    with _named(path, name):
        return tensor_files.shapes(path / name)


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Name the checkpoint in the errors of one of its files."""
    try:
        yield
    except Absent as error:
        raise UserError(
            f"checkpoint {path} has no {name}; resume or evaluate another one"
        ) from error
    except Unreadable as error:
        raise UserError(f"checkpoint {path}: {name} {error.reason}") from error


def read_trainer(path: Path) -> dict[str, Any]:
    """The trainer's state; UserError when damaged."""
    try:
        return read_record(path / STATE, {"step": int, "seconds": (float, type(None))})
    except Unreadable as error:
        raise UserError(
            f"checkpoint {path}: {STATE} is missing or damaged: it {error.reason}"
        ) from error
