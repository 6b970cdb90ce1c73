"""Initial weights of a run from another run's checkpoint (`init_from`)."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from decision_seq import checkpoint
from decision_seq.config import load, read_yaml, require
from decision_seq.datasets.store.source_files import sha256
from decision_seq.policies import Policy
from decision_seq.sequences.conditioning import Conditioning
from decision_seq.types import Reporter, Spec, UserError

SAME = ("observation_shape", "action_size", "action_kind", "first_choice")


@dataclasses.dataclass(frozen=True)
class Source:
    """The checkpoint from which a run begins."""

    path: Path
    """Its folder."""
    spec: Spec
    """Shapes and sizes of its policy."""
    weights: dict[str, Tensor]
    """Its parameters and buffers by name."""

    @classmethod
    def open(cls, name: str, reporter: Reporter) -> Source:
        """The newest sound checkpoint of a run, or a checkpoint; UserError if there is none."""
        path = checkpoint.find_sound(Path(name), reporter)
        tree = read_yaml(path / checkpoint.CONFIG)
        try:
            spec = Spec.of(tree["spec"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"checkpoint {path}: config.yaml lacks or misstates {error}") from error
        return cls(path, spec, checkpoint.read_weights(path, checked=True))

    @property
    def origin(self) -> dict[str, str]:
        """The checkpoint's path and the checksum of its weights, for the provenance."""
        weights = self.path / checkpoint.WEIGHTS
        return {"checkpoint": str(self.path.resolve()), "sha256": sha256(weights)}

    def fit_spec(self, spec: Spec) -> Spec:
        """The spec of a run that begins here: the data's, with what the weights were trained for.

        That is the range of the actions and the number of timesteps. UserError where the data have
        other spaces or longer episodes.
        """
        for key in SAME:
            now, before = getattr(spec, key), getattr(self.spec, key)
            require(
                now == before,
                f"init_from {self.path}: it was trained with {key} {before}, and these data have"
                f" {now}",
            )
        require(
            spec.max_timestep <= self.spec.max_timestep,
            f"init_from {self.path}: it knows {self.spec.max_timestep} timesteps, and these data"
            f" have episodes of {spec.max_timestep}",
        )
        kept = {key: getattr(self.spec, key) for key in ("max_timestep", "action_range")}
        return dataclasses.replace(spec, **kept)

    def report(self, conditioning: Conditioning, reporter: Reporter) -> None:
        """Report a conditioning that differs from the one that the weights were trained with."""
        tree = read_yaml(self.path / checkpoint.CONFIG)
        before = load(Conditioning, tree.get("conditioning") or {})
        if before != conditioning:
            reporter.say(f"init_from: trained with {before}; this run has {conditioning}")

    def fill(self, policy: nn.Module, reporter: Reporter) -> None:
        """Copy the weights and fitted statistics whose names the policy has too.

        UserError where none fit, or where one has another shape. New and unused ones are reported.
        """
        own = policy.state_dict()
        shared = sorted(own.keys() & self.weights.keys())
        other = [name for name in shared if own[name].shape != self.weights[name].shape]
        if other:
            name = other[0]
            raise UserError(
                f"init_from {self.path}: {name} has shape {list(self.weights[name].shape)} there"
                f" and {list(own[name].shape)} here ({len(other)} differ); give this run the"
                " policy's sizes of that one"
            )
        require(bool(shared), f"init_from {self.path}: its policy has no weight of this policy's")
        policy.load_state_dict({name: self.weights[name] for name in shared}, strict=False)
        new, unused = own.keys() - self.weights.keys(), self.weights.keys() - own.keys()
        said = [f"init_from: {len(shared)} tensors are those of {self.path}"]
        said += [
            f"{_listed(names)} {what}"
            for names, what in ((new, "new"), (unused, "unused"))
            if names
        ]
        reporter.say("; ".join(said))


def _listed(names: set[str]) -> str:
    first = sorted(names)[:4]
    more = f" and {len(names) - len(first)} more are" if len(names) > len(first) else " are"
    return f"{', '.join(first)}{more}"


def frozen(policy: Policy, patterns: tuple[str, ...]) -> Policy:
    """The policy without gradients for the weights whose names fit a pattern (`train.freeze`).

    UserError for a pattern that fits none, or if no weight is left to train.
    """
    weights = dict(policy.named_parameters())
    for pattern in patterns:
        fitting = [name for name in weights if fnmatchcase(name, pattern)]
        known = sorted({name.partition(".")[0] for name in weights})
        require(
            bool(fitting),
            f"config: train.freeze {pattern!r} fits no weight; they begin with {', '.join(known)}",
        )
        for name in fitting:
            weights[name].requires_grad_(False)
    require(
        any(weight.requires_grad for weight in weights.values()),
        "config: train.freeze leaves no weight to train",
    )
    return policy
