"""Tests of imports: modules import only from higher layers, and the help does not load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "decision_seq"
# From the top; a module may import from earlier layers and from its own group.
LAYERS = [
    "types",
    "memory",
    "config",
    "workers",
    "targets",
    "statistics",
    "coverage",
    "envs",
    "recipes",
    "data",
    "models",
    "planner",
    "policies",
    "checkpoint",
    "context",
    "acting",
    "rollout",
    "evaluate",
    "train",
    "report",
    "video",
    "provenance",
    "problem",
    "offline",
    "prediction",
    "matching",
    "explanation",
    "run_folder",
    "experiment",
    "sharing",
    "doctor",
    "bench",
    "sweep",
    "commands",
    "cli",
]


def imported_groups(path: Path) -> set[str]:
    groups = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("decision_seq"):
            parts = (node.module or "").split(".")
            groups |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return groups - {"__version__"}


TOP = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
MODULES = sorted(set(PACKAGE.glob("**/*.py")) - TOP)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_upwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in LAYERS, f"{own} has no place in the order of the modules"
    below = {g for g in imported_groups(path) if LAYERS.index(g) > LAYERS.index(own)}
    assert not below


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys; from decision_seq.cli import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'transformers', 'datasets', 'minari', 'gymnasium', 'h5py', 'scipy',"
        " 'onnx', 'onnxruntime', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
