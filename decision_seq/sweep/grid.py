"""A grid of runs: datasets x policies x seeds, from a YAML file.

config: dt/gym                        # the recipe of all runs
set: {evaluation: {episodes: 100}}    # overrides for all runs
datasets: [hopper-medium, walker2d-medium]
policies:
  dt:                                 # without further overrides
  dt-wide: {set: {policy: {backbone: {width: 256}}}}
  mine: {config: path/to/mine.yaml}   # another recipe
seeds: [0, 1, 2]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from decision_seq.config import load, read_yaml, require, setting, to_tree
from decision_seq.envs import trust
from decision_seq.methods import check_name
from decision_seq.reading import YAML_BYTES, BoundedLoader, read_text
from decision_seq.recipes import DEFAULT_RECIPE, recipe_trees
from decision_seq.runs.resolve import Config
from decision_seq.types import UserError

KEYS = ("config", "set", "datasets", "policies", "seeds")
POLICY_KEYS = ("config", "set")
AXES = {"dataset": "datasets", "seed": "seeds"}  # keys of a configuration that the grid itself sets


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    name: str
    """Name of the run's folder."""
    config: Config
    """Configuration of the run, before its data complete it."""

    def arguments(self, output: Path) -> list[str]:
        """Arguments of `decision-seq` that begin the run in `output` or resume it there.

        Every key is given, so that neither a recipe nor the configuration saved in the folder can
        change the run of the grid.
        """
        tree = to_tree(self.config)
        keys = [f"--{key}={_flow(value)}" for key, value in tree.items() if key not in AXES]
        axes = [f"--dataset={self.config.dataset}", f"--seed={self.config.seed}"]
        return ["train", *axes, *keys, f"--output={output}", "--resume=auto"]


def read_grid(path: Path, settings: Sequence[str] = (), seeds: int | None = None) -> list[Run]:
    """All runs of a grid, in the order of the file, with checked configurations.

    settings: `key.key=value`, which override everything else; seeds: use seeds 0 to seeds - 1
    instead of the file's. UserError for the first fault.
    """
    tree = read_yaml(path)
    _refuse_unknown(tree, KEYS, str(path))
    _refuse_repeated(path)
    datasets = _listed(tree, "datasets", str, path)
    policies = tree.get("policies")
    if not isinstance(policies, dict) or not policies:
        raise UserError(f"{path}: policies is empty; name one, as in `policies: {{dt: {{}}}}`")
    if seeds is not None:
        require(seeds >= 1, f"--seeds {seeds} asked for; at least 1 is needed")
        require(seeds <= 10_000, f"--seeds {seeds} asked for; at most 10,000 make a grid")
        tree = {**tree, "seeds": list(range(seeds))}
    numbers = _listed(tree, "seeds", int, path)
    given = [_setting(text) for text in settings]
    runs = []
    for dataset in datasets:
        for policy, entry in policies.items():
            trees = _policy(path, tree, str(policy), entry, dataset)
            for seed in numbers:
                name = f"{_slug(dataset)}-{policy}-seed{seed}"
                axes = {"dataset": dataset, "seed": seed, "method": str(policy)}
                runs.append(Run(name, _config(f"{path}: {name}", [*trees, *given, axes])))
    _refuse_twice(path, "run", (run.name for run in runs))
    return runs


def _policy(
    path: Path, tree: dict[str, Any], name: str, entry: Any, dataset: str
) -> list[dict[str, Any]]:
    """The trees of one policy's configuration on a dataset; later ones override earlier ones."""
    where = f"{path}: policies.{name}"
    check_name(name, where)
    entry = {} if entry is None else entry
    require(isinstance(entry, dict), f"{where} must hold keys ({', '.join(POLICY_KEYS)})")
    _refuse_unknown(entry, POLICY_KEYS, where)
    recipe = entry.get("config", tree.get("config", DEFAULT_RECIPE))
    require(isinstance(recipe, str), f"{where}: config {recipe!r} is no recipe's name")
    try:
        base = recipe_trees(recipe, dataset)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    layers = {f"{path}: set": tree.get("set"), f"{where}.set": entry.get("set")}
    for place, layer in layers.items():
        require(layer is None or isinstance(layer, dict), f"{place} must hold keys, not {layer!r}")
        _refuse_axes(layer or {}, place)
    return [*base, *(layer or {} for layer in layers.values())]


def _config(where: str, trees: list[dict[str, Any]]) -> Config:
    """The configuration of a run; UserError if its warm-up is as long as its training."""
    try:
        config = load(Config, *trees)
        trust(config.evaluation.env_id or "")  # the user named it, in the grid
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    short, steps = config.train.short_of_warmup(), config.train.steps
    require(short is None, f"{where}: {short}; add --set train.warmup_steps={steps // 10}")
    return config


def _setting(text: str) -> dict[str, Any]:
    tree = setting("--set", text, "train.steps=1000")
    _refuse_axes(tree, "--set")
    return tree


def _listed(tree: dict[str, Any], key: str, kind: type, path: Path) -> list[Any]:
    """The list at a key; UserError if it is empty or repeats a value."""
    values = tree.get(key)
    example = "[hopper-medium]" if kind is str else "[0, 1, 2]"
    require(
        isinstance(values, list) and bool(values),
        f"{path}: {key} is empty; give a list, as in `{key}: {example}`",
    )
    assert isinstance(values, list)
    for value in values:
        require(type(value) is kind, f"{path}: {key} holds {value!r}; write {key}: {example}")
    _refuse_twice(path, key.removesuffix("s"), values)
    return values


def _refuse_unknown(tree: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in tree:
        require(key in known, f"{where}: unknown key {key!r}; there are {', '.join(known)}")


def _refuse_axes(tree: dict[str, Any], where: str) -> None:
    for key, axis in AXES.items():
        require(key not in tree, f"{where} may not set {key}; name it in the grid's {axis}")


def _refuse_twice(path: Path, what: str, names: Iterable[Any]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    require(not twice, f"{path}: the {what} {twice[0] if twice else ''} is there twice")


def _refuse_repeated(path: Path) -> None:
    """Refuse repeated keys, of which YAML silently uses only the last."""
    root = yaml.compose(read_text(path, YAML_BYTES), BoundedLoader)
    assert isinstance(root, yaml.MappingNode)
    mappings = [root]
    mappings += [value for key, value in root.value if isinstance(value, yaml.MappingNode)]
    for mapping in mappings:
        _refuse_twice(path, "key", (key.value for key, _ in mapping.value if key.id == "scalar"))


def _slug(dataset: str) -> str:
    """A dataset's name as part of a folder's name, in the same form as `train` uses."""
    name = Path(dataset).stem if "." in dataset else dataset
    return name.strip("/").replace("/", "-")


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
