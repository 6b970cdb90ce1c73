"""The YAML files of `experiments/` by name: recipes of one run, and tables of many runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from decision_seq.config import read_yaml, require
from decision_seq.reading import YAML_BYTES, read_text
from decision_seq.types import UserError

DEFAULT_RECIPE, DEFAULT_DATASET = "dt/gym", "hopper-medium"
# Default recipes by the beginning of the dataset's name; the longest beginnings come first.
OF_DATASETS = {
    "atari/bundled-": "atari/small",
    "atari/": "atari/dt",
    "bundled/key-to-door-": "dt/key-to-door",
    "key-to-door-": "dt/key-to-door",
}
TABLES = "tables"  # the folder of `experiments/` that holds tables, not recipes
NO_RECIPES = (f"{TABLES}/", "plugin-template/")
_PACKAGE = Path(__file__).parent
FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")  # installed, or a checkout


def recipe_of(dataset: str | None) -> str:
    """The default recipe of a dataset."""
    begins = (
        recipe for prefix, recipe in OF_DATASETS.items() if (dataset or "").startswith(prefix)
    )
    return next(begins, DEFAULT_RECIPE)


def recipe_name(recipe: str) -> str:
    """The name of a recipe that is given by its name or its path: `bc/transformer`, `mine`."""
    return Path(recipe).stem if _is_path(recipe) else recipe


def recipe_trees(name: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """A recipe's settings: those for all datasets, then overrides for the given dataset.

    Overrides are in the recipe's `for_datasets`, under patterns such as `walker2d-medium-replay*`.
    A data file matches as the D4RL dataset of the same name.
    """
    path = recipe_path(name)
    tree = read_yaml(path)
    special = tree.pop("for_datasets", {})
    named = dataset or tree.get("dataset", DEFAULT_DATASET)
    return [tree, *_fitting(special, str(named), f"{path}: for_datasets")]


def run_trees(name: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """As `recipe_trees`, after the name of the method that the recipe gives to its runs."""
    return [{"method": recipe_name(name)}, *recipe_trees(name, dataset)]


def _fitting(special: Any, dataset: str, where: str) -> Iterator[dict[str, Any]]:
    from decision_seq.envs.facts import canonical

    require(isinstance(special, dict), f"{where} must hold patterns of names, not {special!r}")
    for pattern, tree in special.items():
        require(isinstance(tree, dict), f"{where}.{pattern} must hold keys, not {tree!r}")
        require(
            "dataset" not in tree, f"{where}.{pattern} must not name a dataset: it is chosen by it"
        )
        if fnmatchcase(canonical(Path(dataset).name), str(pattern)):
            yield tree


def recipe_path(name: str) -> Path:
    """A YAML file by its path, or a recipe of `experiments/` by its name, such as `dt/paper`."""
    return _path(name, "recipe", recipes())


def table_path(name: str) -> Path:
    """A grid of runs by its path, or one of `experiments/tables/` by its name."""
    return _path(name, "table", tables())


def recipes() -> dict[str, Path]:
    """All recipes by name; an installed package's recipes take precedence over a checkout's."""
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in reversed(FOLDERS)
        for path in folder.glob("**/*.yaml")
    }
    return {name: found[name] for name in sorted(found) if not name.startswith(NO_RECIPES)}


def tables() -> dict[str, Path]:
    """All tables by name."""
    found = {
        path.stem: path for folder in reversed(FOLDERS) for path in (folder / TABLES).glob("*.yaml")
    }
    return dict(sorted(found.items()))


def description(path: Path) -> tuple[str, str]:
    """The comment at the top of a recipe or table: the first line, a summary, and the rest."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), _lines(path))
    first, *rest = [line.removeprefix("#").strip() for line in lines] or [""]
    return first, "\n".join(rest)


def settings(path: Path) -> str:
    """The text of a recipe or table without the comment at its top."""
    lines = itertools.dropwhile(lambda line: line.startswith("#"), _lines(path))
    return "\n".join(lines).strip()


def _lines(path: Path) -> list[str]:
    return read_text(path, YAML_BYTES).splitlines()


def _path(name: str, what: str, known: dict[str, Path]) -> Path:
    if _is_path(name):
        return Path(name)
    if name not in known:
        listed = ", ".join(known)
        raise UserError(f"no {what} is called {name!r}; there are {listed}, or give a .yaml file")
    return known[name]


def _is_path(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")
