"""No private name of a dependency is needed to import a module of the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "decision_seq"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions, lambdas' too."""
    if isinstance(node, FUNCTIONS):
        parts = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.Lambda):
        parts = []
    else:
        parts = list(ast.iter_child_nodes(node))
    for part in parts:
        yield part
        yield from at_import(part)


def named_elsewhere(tree: ast.Module) -> set[str]:
    """The names that a module imports from dependencies."""
    found = set()
    for node in at_import(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("decision_seq"):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def privates(source: str) -> list[str]:
    tree = ast.parse(source)
    foreign, found = named_elsewhere(tree), []
    for node in at_import(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            paths = [f"{module}.{alias.name}" for alias in node.names]
            if not module.startswith("decision_seq") and any(
                private(part) for path in paths for part in path.split(".")
            ):
                found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and private(node.attr):
            base: ast.AST = node
            while isinstance(base, ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name) and base.id in foreign:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("**/*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_private_of_a_dependency_at_import(path: Path) -> None:
    assert privates(path.read_text()) == []


def test_the_search_finds_what_it_is_for() -> None:
    assert privates("import torch\nx = torch.ops.mkldnn._linear_pointwise")
    assert privates("import torch\n@f(torch.ops.mkldnn._x)\ndef g(): ...")
    assert privates("from torch.utils._pytree import tree_map")
    assert privates("import torch\ndef g(x=torch._C): ...")
    assert not privates("import torch\ndef g(): return torch._C")
    assert not privates("from decision_seq.x import _y")
