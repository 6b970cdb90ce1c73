"""The functions of `import decision_seq`; they load PyTorch, which the package itself does not.

import decision_seq as ds

store = ds.write_dataset("mine", episodes, env_id="my_env:Arm-v0")
config = ds.load_config("dt/gym", dataset="mine", **{"train.steps": 2000})
run = ds.train(config, output="runs/mine")
scores = ds.evaluate("runs/mine", targets=["max", "q90"])
agent = ds.Agent.load("runs/mine", target="max")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import numpy as np

from decision_seq.checkpoint import Loaded, load
from decision_seq.config import load as decode
from decision_seq.config import require
from decision_seq.console import make_reporter
from decision_seq.datasets import Request
from decision_seq.datasets import open_dataset as open_by_name
from decision_seq.datasets.collected.collection import Size
from decision_seq.datasets.store import EpisodeStore
from decision_seq.envs import trust
from decision_seq.evaluation import compute_device, evaluate_checkpoint
from decision_seq.evaluation.held_out import OfflineScores
from decision_seq.evaluation.protocol import EvaluationConfig
from decision_seq.evaluation.targets import Target
from decision_seq.machine.files import as_path
from decision_seq.plugins import require_loaded
from decision_seq.recipes import recipe_of, run_trees
from decision_seq.runs import experiment
from decision_seq.runs.default_output import default_output
from decision_seq.runs.folder import Resume
from decision_seq.runs.resolve import Config
from decision_seq.suggestions import option_meant
from decision_seq.types import Reporter, Scores, UserError


@dataclass(frozen=True)
class Run:
    """A finished run; it may be given wherever the path of a run is."""

    path: Path
    """Its folder."""
    checkpoint: Path
    """Its last checkpoint."""
    scores: Scores | None
    """Scores of its last checkpoint; None without rollouts."""
    offline: OfflineScores | None
    """Errors on the held-out episodes; None where none were held out."""

    def __fspath__(self) -> str:
        return str(self.path)


def open_dataset(
    name: Path | str, *, steps: int | None = None, seed: int = 0, progress: bool = True
) -> EpisodeStore:
    """Open a dataset by name or path; fetch, convert or collect it first where needed.

    name: see `decision-seq data list` and `decision_seq.datasets`. steps, seed: size and seed of a
    bundled collection. progress: whether to show messages and progress bars. UserError for an
    unknown name or unreadable data.
    """
    for key, value in (("steps", 1 if steps is None else steps), ("seed", seed)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(whole, f"open_dataset: {key} {value!r} is no whole number")
    size = None if steps is None else Size(int(steps))
    request = Request(size, int(seed), reporter=_reporter(progress))
    return open_by_name(_dataset(name), request)


def load_config(
    recipe: Path | str | None = None,
    *,
    dataset: Path | str | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Config:
    """A run's configuration from a recipe, with changes.

    recipe: a name such as `dt/gym` or the path of a YAML file; by default the recipe of the
    dataset's kind. settings: values by dotted keys, `**{"train.steps": 2000}`; a key may hold a
    mapping of keys. UserError for an unknown key or an unfit value.
    """
    named = None if dataset is None else _dataset(dataset)
    chosen = recipe_of(named) if recipe is None else str(as_path(recipe, "the recipe"))
    given = {"dataset": named, "seed": seed}
    trees = [
        *run_trees(chosen, named),
        {key: value for key, value in given.items() if value is not None},
        *(_nested(key, value) for key, value in settings.items()),
    ]
    for tree in trees:
        require_loaded(tree.get("plugins") or (), "this configuration")
    return decode(Config, *trees)


def _dataset(name: Any) -> str:
    """A dataset's name or path as text; UserError for another object."""
    if isinstance(name, EpisodeStore):
        raise UserError(f"give the dataset's name or its path, {name.path}, instead of the store")
    return str(as_path(name, "the dataset")) if not isinstance(name, str) else name


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    tree = _plain(value)
    for key in reversed(dotted.split(".")):
        tree = {key: tree}
    return tree


def _plain(value: Any) -> Any:
    """The value with lists for tuples and arrays, and paths as text, as YAML would give them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def train(
    config: Config,
    output: Path | str | None = None,
    *,
    resume: Resume = "never",
    progress: bool = True,
) -> Run | None:
    """Train and evaluate a run -> its results; None on all processes of a launch but the main one.

    output: the run's folder, by default runs/DATASET-POLICY-seedN. resume: `must` continues the run
    in `output`, `auto` begins it where there is none. Ctrl-C saves the run and raises
    `Interrupted`. UserError for anything that the user can mend.
    """
    require(
        isinstance(config, Config),
        f"train: the configuration is of type {type(config).__name__}; make one by load_config",
    )
    require(
        resume in get_args(Resume),
        f"train: resume={resume!r} is none of {', '.join(map(repr, get_args(Resume)))}",
    )
    trust(config.evaluation.env_id or "")
    folder = default_output(config) if output is None else as_path(output, "the output")
    require(
        output is not None or resume == "never",
        f"train: resume={resume!r} needs the run's folder; name it with output",
    )
    finished = experiment.train(config, folder, resume, reporter=_reporter(progress))
    return None if finished is None else Run(folder, *finished)


def evaluate(
    path: os.PathLike[str] | str,
    *,
    targets: Sequence[Target] | None = None,
    env_id: str | None = None,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Scores:
    """Roll out a run's newest checkpoint, or a checkpoint -> its scores. No data are needed.

    targets: raw returns, or `max`, `median`, `q0` to `q100` of the data's returns; by default the
    run's, as are all other settings: `episodes`, `seed`, `temperature` and the other keys of
    `evaluation`. UserError where it cannot be rolled out.
    """
    trust(env_id or "")
    known = [*(f.name for f in fields(EvaluationConfig)), "planner", "device", "progress"]
    for key in sorted(settings.keys() - set(known)):
        meant = option_meant(f"--{key}", [f"--{name}" for name in known])
        close = f"did you mean {(meant or '').lstrip('-')}?"
        hint = close if meant else f"there are {', '.join(known)}"
        raise UserError(f"evaluate: unknown key {key}; {hint}")
    asked = {"targets": targets, "env_id": env_id, **settings}
    plain = {key: _plain(value) for key, value in asked.items()}
    return evaluate_checkpoint(as_path(path, "the run"), device, _reporter(progress), **plain)


def load_policy(path: os.PathLike[str] | str, device: str | None = None) -> Loaded:
    """The policy of a run's newest checkpoint, or of a checkpoint, with its conditioning and facts.

    The policy is a PyTorch module; `Agent.load` makes it act. UserError for a damaged checkpoint.
    """
    return load(as_path(path, "the run"), compute_device(device), reporter=make_reporter())


def _reporter(progress: bool) -> Reporter:
    return make_reporter() if progress else Reporter()
