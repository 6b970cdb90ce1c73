"""The notebooks of `experiments/notebooks/`, and the package in a Jupyter kernel."""

from __future__ import annotations

import ast
import importlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from decision_seq.console import Console
from tests.waiting import LIMIT

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
TINY = {"DATA": 2000, "STEPS": 20, "EPISODES": 2}  # in place of the cell tagged `parameters`
TINY_OF = {"02-own-data": {"DATA": 6}}


def code(notebook: NotebookNode) -> list[str]:
    """The code cells as plain Python, without the magics of IPython."""
    transform = TransformerManager().transform_cell
    return [transform(cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: NotebookNode) -> NotebookNode:
    """The one cell that is tagged `parameters`."""
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def names(source: str) -> list[str]:
    """The names that a cell of plain assignments assigns."""
    return [ast.unparse(line.targets[0]) for line in ast.parse(source).body]  # type: ignore[attr-defined]


def kernel_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()  # Jupyter writes there
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_there_are_four() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01-first-steps",
        "02-own-data",
        "03-own-policy",
        "04-reading-the-report",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_sound(path: Path) -> None:
    """Valid, saved without outputs; its cells are Python; what it imports and links to exists."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert set(names(parameters(notebook).source)) == TINY.keys()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            continue
        for link in re.findall(r"\]\(([^)#]+)", cell.source):
            assert (path.parent / link).exists(), link
        for file in re.findall(r"`((?:experiments|decision_seq)/[\w./-]+)`", cell.source):
            assert (ROOT / file).exists(), file
    for node in ast.walk(ast.parse("\n".join(code(notebook)))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last in a real kernel, in a tiny form."""
    kernel_environment(tmp_path / "home", monkeypatch)
    notebook = nbformat.read(path, 4)
    values = TINY | TINY_OF.get(path.stem, {})
    parameters(notebook).source = "\n".join(f"{key} = {value}" for key, value in values.items())
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises what a cell raises
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running kernel's manager and client, in an empty folder."""
    kernel_environment(tmp_path / "home", monkeypatch)
    manager = KernelManager()
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(LIMIT)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


SET_UP = """
import numpy as np, decision_seq as ds
rng = np.random.default_rng(0)
ds.write_dataset("mine", [dict(observations=rng.normal(size=(30, 3)), rewards=np.ones(30),
    actions=rng.uniform(-1, 1, (30, 1)), truncated=True) for _ in range(9)], env_id="Pendulum-v1")
few = {"train.steps": 10**6, "evaluation.episodes": 1, "train.trackers": []}
config = ds.load_config("bc/gym", dataset="mine", **few)
"""


def test_the_stop_button_saves_the_run(kernel: Any, tmp_path: Path) -> None:
    """It shows one line, and the kernel lives on; a wrong call shows one line too."""
    manager, client = kernel
    assert client.execute_interactive(SET_UP, timeout=LIMIT)["content"]["status"] == "ok"

    # The bar is drawn more often than in a log.
    asked = client.execute("ds.train(config, 'run')")
    drawn: set[str] = set()
    until = time.monotonic() + LIMIT
    while len(drawn) < 3:
        message = client.get_iopub_msg(timeout=until - time.monotonic())
        text = message["content"].get("text", "")
        drawn |= set(re.findall(r"train:.*update", text))
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=LIMIT))["parent_header"].get("msg_id") != asked:
        pass
    content = reply["content"]
    assert content["ename"] == "Interrupted"
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    line = f"Interrupted: saved run/checkpoints/{saved.name}; go on with ds.train(config, 'run', "
    assert content["traceback"] == [f"{line}resume='must')"]

    scores = "print(ds.evaluate('run', progress=False).targets[0].lengths)"
    assert client.execute_interactive(scores, timeout=LIMIT)["content"]["status"] == "ok"
    wrong = client.execute_interactive("ds.evaluate('absent')", timeout=LIMIT)["content"]
    told = "UserError: absent does not exist; give a run's folder or one of its checkpoints"
    assert wrong["traceback"] == [told]


@pytest.mark.parametrize(("module", "seconds"), [("ipykernel.iostream", 1.0), ("io", 15.0)])
def test_a_bar_is_redrawn_often_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, module: str, seconds: float
) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": module})()
    monkeypatch.setattr("sys.stderr", stream)
    with Console().bar("train", "update", 10) as bar:
        assert bar.mininterval == seconds  # type: ignore[attr-defined]
