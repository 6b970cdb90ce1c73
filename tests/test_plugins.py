"""Tests of plugins: the template package, by option, by variable and installed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import decision_seq as ds
from decision_seq import plugins
from decision_seq.types import UserError

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "experiments" / "plugin-template"
MODULE = "decision_seq_template"
TRAIN = [
    *("train", "--dataset", "points.csv", "--config", str(TEMPLATE / "linear.yaml")),
    *("--evaluation.env_id", "TemplatePoint-v0", "--output", "runs/linear"),
    *("--train.steps", "6", "--train.warmup_steps", "1", "--train.checkpoint_every", "3"),
    *("--evaluation.episodes", "2", "--train.trackers", "[]"),
]


def run(folder: Path, *commands: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other in one process, as a shell would in several."""
    code = (
        "import json, sys; from decision_seq.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    code = main(command)\n"
        "    if code: sys.exit(code)"
    )
    path = os.pathsep.join([str(ROOT), *filter(None, [variables.pop("PYTHONPATH", "")])])
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a CSV file of 30 episodes of the template's environment."""
    rng = np.random.default_rng(0)
    with (tmp_path / "points.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["o0", "o1", "a0", "a1", "reward", "episode"])
        for episode in range(30):
            point = rng.uniform(-1, 1, 2)
            for _ in range(20):
                action = np.clip(rng.uniform(-1, 2) * -point, -1, 1)
                moved = point + 0.2 * action
                rows.writerow([*point, *action, -np.linalg.norm(moved), episode])
                point = moved
    return tmp_path


def test_the_template_by_option_and_in_a_run_of_ones_own(work: Path) -> None:
    done = run(
        work,
        ["--plugin", MODULE, "plugins"],
        ["returns", "points.csv", "--plugin", MODULE],
        [*TRAIN, "--plugin", MODULE],
        PYTHONPATH=str(TEMPLATE),
    )
    assert done.returncode == 0, done.stderr
    for item in ("policy", "linear", "reader", ".csv", "environment", "TemplatePoint-v0", "verb"):
        assert item in done.stdout
    assert "30 episodes" in done.stdout
    assert "TemplatePoint-v0" in done.stdout.partition("30 episodes")[2]  # the scores

    # The run remembers the plugin for its user, and for no one else.
    again = run(
        work,
        ["evaluate", "runs/linear", "--episodes", "1"],
        ["train", "--output", "runs/linear", "--resume"],
        PYTHONPATH=str(TEMPLATE),
    )
    assert again.returncode == 0, again.stderr
    other = run(
        work,
        ["evaluate", "runs/linear", "--episodes", "1"],
        PYTHONPATH=str(TEMPLATE),
        HOME=str(work / "other"),
    )
    assert other.returncode == 2
    line = other.stderr.strip().splitlines()[-1]
    assert line.startswith("decision-seq: checkpoint runs/linear/checkpoints/step-00000006 needs")
    assert f"the plugin {MODULE}, which is not loaded; if you trust it, load it by" in line
    assert f"--plugin {MODULE}" in line


@pytest.mark.slow
def test_the_template_installed(work: Path) -> None:
    """Installed by pip, it is loaded by its entry point, in sweeps and their jobs too."""
    site = work / "site"
    install = ["install", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "-q", *install, str(TEMPLATE)], check=True)
    (work / "grid.yaml").write_text(
        "set: {train: {steps: 6, warmup_steps: 1, trackers: []}, conditioning: {name: return},"
        " evaluation: {episodes: 2, env_id: TemplatePoint-v0}}\n"
        "datasets: [points.csv]\n"
        "policies: {linear: {set: {policy: {name: linear, context_length: 5}}}}\n"
        "seeds: [0, 1]\n"
    )
    done = run(
        work,
        ["plugins"],
        TRAIN,
        ["sweep", "grid.yaml", "--jobs", "2", "--output", "grid"],
        ["evaluate", "grid/points-linear-seed0", "--episodes", "1"],
        PYTHONPATH=str(site),
    )
    assert done.returncode == 0, done.stderr
    assert "package decision-seq-template 0.1.0" in done.stdout
    assert len(list((work / "grid").rglob("scores.json"))) == 2


def test_a_plugin_by_variable_that_fails_is_named(work: Path) -> None:
    (work / "broken.py").write_text("import nothing_of_this_name")
    done = run(work, ["plugins"], DECISION_SEQ_PLUGINS="broken")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        "decision-seq: plugin broken: module broken cannot be imported: ModuleNotFoundError: No"
        " module named 'nothing_of_this_name'"
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["not_imported_x"], "needs the plugin not_imported_x, which is not loaded"),
        (["__main__x", "os"], "needs the plugin __main__x"),
        ("os", "plugins must be a list of modules' names"),
        ([1], "plugins must be a list of modules' names"),
        (["os"] * 65, "plugins lists more than 64 modules"),
    ],
)
def test_listed_modules_are_never_imported(modules: object, message: str) -> None:
    with pytest.raises(UserError, match="this file") as failed:
        plugins.require_loaded(modules, "this file")
    assert message in str(failed.value)
    assert "not_imported_x" not in sys.modules


def test_register_refuses_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="the kinds are policy, backbone"):
        ds.register("polcy", "x")
    with pytest.raises(UserError, match="give a class of PolicyConfig's"):
        ds.register("policy", "x")(dict)
    with pytest.raises(UserError, match="the name is taken by decision_seq"):

        @ds.register("reader", ".npz")
        def read(path: Path, output: Path, reporter: object) -> None: ...
