"""Every recipe of EXTENDING.md, applied to a copy of the package as the page says: the file, the
lines that register it, 20 updates by its experiment, and the contract tests over the new entry.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import make_episode

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "decision_seq" / "EXTENDING.md"
# Marked blocks: <!-- kind: what --> before the fence.
BLOCK = re.compile(r"<!-- (\w+): (.+?) -->\n```\w+\n(.*?)```\n", re.DOTALL)
LENGTHS = (30, 7, 51, 1, 24)


class Contract(NamedTuple):
    """The contract tests of a recipe.

    entry: what their names contain. words: which of them run here (pytest's -k). least: how many.
    """

    entry: str
    words: str
    least: int


CONTRACTS = {
    "reader": Contract("jsonl", "test_imports", 1),
    "conditioning": Contract("return_and_steps", "test_conditioning_contract", 5),
    "backbone": Contract("gru", "test_backbone_contract or dt-gru-return-continuous", 15),
    "memory": Contract(
        "amrl", "test_backbone_contract or dt-amrl-return-continuous or dt-amrl-none-discrete", 25
    ),
    "auxiliary": Contract(
        "forward_dynamics",
        "dt-gpt-return or bc-return or test_auxiliary_contract or test_imports",
        20,
    ),
    "policy": Contract("rvs", "test_contract or test_imports", 40),
    "optimizer": Contract("nadam", "test_optimizer_contract or test_imports", 4),
}
SUITES = (
    "tests/policies/test_contract.py",
    "tests/models/test_backbone_contract.py",
    "tests/models/test_auxiliary_contract.py",
    "tests/sequences/conditioning/test_conditioning_contract.py",
    "tests/training/test_optimizer_contract.py",
    "tests/test_imports.py",
)

# Runs in the copy: trains by each experiment on the recipe's own file format, then runs the suites.
DRIVER = """
import json, sys
from pathlib import Path

import pytest

from decision_seq import config as configs
from decision_seq.runs import experiment
from decision_seq.datasets import open_dataset
from decision_seq.runs.resolve import Config
from decision_seq.types import UserError
from tests.test_extending import LENGTHS, SUITES
from tests.test_extending import check_store

SMALL = {
    "dataset": "trajectories.jsonl",
    "train": {
        "steps": 20, "batch_size": 8, "warmup_steps": 2, "log_every": 1,
        "checkpoint_every": 20, "trackers": [],
    },
    "evaluation": {"episodes": 0},
}

check_store(open_dataset("trajectories.jsonl"))
Path("bad.jsonl").write_text('{"observations": []}')
try:
    open_dataset("bad.jsonl")
except UserError as error:
    assert "bad.jsonl: line 1 is no episode" in str(error), error
else:
    raise AssertionError("a bad file was read")
for path in sorted(Path("experiments").glob("*.yaml")):
    config = configs.load(Config, configs.read_yaml(path), SMALL)
    experiment.train(config, Path("runs") / path.stem)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--junitxml", "suites.xml", *sys.argv[1:]]))
"""


class Recipe(NamedTuple):
    """A recipe of the page.

    hunks: file -> pairs of the lines that show the place and the same lines with the added ones.
    """

    name: str
    path: str
    code: str
    hunks: dict[str, list[tuple[str, str]]]
    added: int
    experiment: tuple[str, str]


def page_recipes() -> list[Recipe]:
    found: list[Recipe] = []
    for kind, what, text in BLOCK.findall(PAGE.read_text()):
        if kind == "example":
            name, path = what.split()
            found.append(Recipe(name, path, text, {}, 0, ("", "")))
        elif kind == "register":
            added = sum(line.startswith("+") for line in text.splitlines())
            found[-1] = found[-1]._replace(hunks={what: hunks_of(text)}, added=added)
        elif kind == "experiment":
            found[-1] = found[-1]._replace(experiment=(what, text))
    return found


def hunks_of(text: str) -> list[tuple[str, str]]:
    pairs = []
    for hunk in text.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        assert all(line[0] in " +" for line in lines), hunk
        before = "".join(line[1:] for line in lines if line[0] == " ")
        pairs.append((before, "".join(line[1:] for line in lines)))
    return pairs


RECIPES = {recipe.name: recipe for recipe in page_recipes()}


def apply(recipe: Recipe, root: Path) -> None:
    """The recipe's file, its registration and its experiment, in a copy of the package."""
    target = root / recipe.path
    assert not target.exists(), f"{recipe.path} is there already"
    target.write_text(recipe.code)
    for name, pairs in recipe.hunks.items():
        text = (root / name).read_text()
        for before, after in pairs:
            assert f"\n{text}".count(f"\n{before}") == 1, f"{name} has not once:\n{before}"
            text = text.replace(before, after)
        (root / name).write_text(text)
    name, text = recipe.experiment
    (root / "experiments" / name).write_text(text)


def check_store(store) -> None:
    """Invariant 7: the store holds the episodes that were written."""
    assert store.num_episodes == len(LENGTHS)
    for index, length in enumerate(LENGTHS):
        expected, found = make_episode(length, index, index % 2 == 0), store.episode(index)
        for name in ("observations", "actions", "rewards"):
            assert (getattr(found, name) == getattr(expected, name)).all(), name
        assert (found.terminated, found.truncated) == (index % 2 == 0, index % 2 == 1)


def write_episodes(path: Path) -> None:
    lines = []
    for index, length in enumerate(LENGTHS):
        episode = make_episode(length, index, index % 2 == 0)
        arrays = {n: getattr(episode, n).tolist() for n in ("observations", "actions", "rewards")}
        flags = {"terminated": episode.terminated, "truncated": episode.truncated}
        lines.append(json.dumps({**arrays, **flags}))
    path.write_text("\n".join(lines) + "\n")


def environment(root: Path, stores: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(root), "DECISION_SEQ_DATA": str(stores), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": "", "DECISION_SEQ_OFFLINE": "1"}


class Applied(NamedTuple):
    """The copy after all recipes ran in it."""

    root: Path
    output: str
    outcomes: dict[str, bool]  # a contract test's id -> whether it passed


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    root = tmp_path_factory.mktemp("extended")
    # With the compiled files, which are valid for the copies: they keep the times of their sources.
    unwanted = shutil.ignore_patterns("*.safetensors")
    for name in ("decision_seq", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "experiments").mkdir()
    for recipe in RECIPES.values():
        apply(recipe, root)
    write_episodes(root / "trajectories.jsonl")
    (root / "driver.py").write_text(DRIVER)
    chosen = " or ".join(f"({c.entry} and ({c.words}))" for c in CONTRACTS.values())
    run = subprocess.run(
        [sys.executable, "driver.py", "-k", chosen, *SUITES],
        cwd=root,
        env=environment(root, root / "stores"),
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = {}
    if (root / "suites.xml").exists():
        for case in ElementTree.parse(root / "suites.xml").iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            outcomes[name] = not any(part.tag in ("failure", "error") for part in case)
    return Applied(root, run.stdout[-4000:] + run.stderr[-4000:], outcomes)


def test_the_page_has_every_recipe() -> None:
    assert list(RECIPES) == list(CONTRACTS)
    for recipe in RECIPES.values():
        assert recipe.added > 0, recipe.name
        assert recipe.experiment[1], recipe.name


def test_the_table_is_true() -> None:
    """One file and the lines that register it; its experiment is a third."""
    rows = []
    for number, recipe in enumerate(RECIPES.values(), 1):
        ((registry, _),) = recipe.hunks.items()
        lines = len(recipe.code.splitlines())
        cells = (f"{number}. {recipe.name}", f"`{recipe.path}`", lines, f"`{registry}`")
        rows.append("| " + " | ".join(map(str, (*cells, recipe.added))) + " |")
    assert "\n".join(rows) in PAGE.read_text(), "the table should be:\n" + "\n".join(rows)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_recipe_trains(name: str, applied: Applied) -> None:
    run = applied.root / "runs" / Path(RECIPES[name].experiment[0]).stem
    assert (run / "metrics.jsonl").exists(), applied.output
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 21)), applied.output
    assert (run / "checkpoints" / "step-00000020").is_dir()


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_recipe_holds_its_contract(name: str, applied: Applied) -> None:
    contract = CONTRACTS[name]
    found = {test: good for test, good in applied.outcomes.items() if contract.entry in test}
    assert len(found) >= contract.least, applied.output
    assert all(found.values()), applied.output


def test_a_file_outside_the_repository_is_used_by_a_script(tmp_path: Path) -> None:
    """The page's `run.py`, in a folder of its own, with the package as it is."""
    ((script, code),) = [
        (what, text) for kind, what, text in BLOCK.findall(PAGE.read_text()) if kind == "outside"
    ]
    (tmp_path / script).write_text(code)
    (tmp_path / "my_gru.py").write_text(RECIPES["backbone"].code)
    options = (
        *("--policy.backbone.name", "nothing_of_this_name"),
        *("--output", str(tmp_path / "run")),
    )
    run = subprocess.run(
        [sys.executable, script, "train", *options],
        cwd=tmp_path,
        env=environment(ROOT, tmp_path / "stores"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "one of gpt, lstm, gru" in run.stderr
