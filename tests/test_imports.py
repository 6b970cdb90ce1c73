"""Imports: the order of the layers, no cycles, no torch when the command line starts."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "decision_seq"
# From the top; a module may import from earlier layers and from its own group.
LAYERS = [
    "types",
    "formatting",
    "modules",
    "plugins",
    "aliases",
    "suggestions",
    "escaping",
    "reading",
    "console",
    "tensor_files",
    "machine",
    "config",
    "components",
    "envs",
    "user_choices",
    "methods",
    "recipes",
    "datasets",
    "report",
    "sequences",
    "models",
    "policies",
    "at_hand",
    "checkpoint",
    "evaluation",
    "acting",
    "training",
    "runs",
    "analysis",
    "sharing",
    "doctor",
    "bench",
    "sweep",
    "registries",
    "commands",
    "api",
    "reference",
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


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Every module that a file names, within functions and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return found & modules - {name_of(path)}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {name_of(path) for path in MODULES}
    graph = {name_of(path): imported_modules(path, modules) for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys; from decision_seq.cli import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'transformers', 'datasets', 'minari', 'gymnasium', 'h5py', 'scipy',"
        " 'onnx', 'onnxruntime', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
