"""Smoke test of every recipe at a tiny size: train, kill, resume, evaluate. Run by `make smoke`.

It checks that every recipe runs from start to end, not that it learns anything.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decision_seq.config import read_yaml
from decision_seq.recipes import recipe_path, recipes
from decision_seq.report import table

STEPS, KILL_AFTER = 60, 30
DATASET = "bundled/hopper-medium"  # default
DATASETS = {"atari": "atari/bundled-pong"}  # by family
OF_TASKS = {"key-to-door": "key-to-door-1k"}  # by task, in every family
SMALL = {
    "collection.steps": 4000,
    "train.steps": STEPS,
    "train.batch_size": 8,
    "train.log_every": 1,
    "train.checkpoint_every": 10,
    "train.precision": "fp32",
    "evaluation.episodes": 2,
    "held_out": 0.2,
}
SMALL_POLICY = {"width": 16, "layers": 2}
SMALL_BACKBONE = {**SMALL_POLICY, "heads": 2}


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one decision-seq command; exit with its error output when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "decision_seq", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"decision-seq {' '.join(arguments)}\n{done.stderr}")
    return done


def killed(arguments: list[str], output: Path) -> int:
    """Start training and kill it -> the number of logged updates."""
    process = subprocess.Popen(
        [sys.executable, "-m", "decision_seq", *arguments], stderr=subprocess.DEVNULL
    )
    metrics = output / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") >= KILL_AFTER:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def small(recipe: str) -> dict[str, object]:
    """Overrides that make a recipe tiny."""
    policy = read_yaml(recipe_path(recipe))["policy"]
    backbones = [part for part in ("backbone", "summary") if part in policy]
    sizes = {
        f"policy.{part}.{key}": value for part in backbones for key, value in SMALL_BACKBONE.items()
    }
    if not backbones:
        sizes = {f"policy.{key}": value for key, value in SMALL_POLICY.items()}
    if "planner" in policy:
        sizes |= {"policy.planner.horizon": 2, "policy.planner.beams": 4}
    return {**SMALL, **sizes}


def smoke(name: str, folder: Path) -> list[str]:
    """Test one recipe -> its row of the table."""
    started = time.monotonic()
    output = folder / name.replace("/", "-")
    overrides = [part for key, value in small(name).items() for part in (f"--{key}", str(value))]
    family, _, task = name.partition("/")
    dataset = OF_TASKS.get(task) or DATASETS.get(family, DATASET)
    arguments = ["train", "--config", name, "--dataset", dataset, "--output", str(output)]
    logged = killed([*arguments, *overrides], output)
    resumed = run(["train", "--output", str(output), "--resume"])
    from_step = [line for line in resumed.stderr.splitlines() if line.startswith("resumed from")]
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").open()]
    if logged >= STEPS or not from_step or steps != list(range(1, STEPS + 1)):
        sys.exit(f"{name}: killed at {logged}, then {from_step}, {len(steps)} updates in all")
    scores = json.loads(run(["evaluate", str(output), "--episodes", "2", "--json"]).stdout)
    trained = json.loads((output / "scores.json").read_text())
    if scores["targets"] != trained["targets"]:
        sys.exit(f"{name}: the scores of evaluate differ from those of train")
    measured = json.loads(run(["evaluate", str(output), "--offline", "--json"]).stdout)
    if measured != json.loads((output / "offline.json").read_text()):
        sys.exit(f"{name}: the measures of evaluate --offline differ from those of train")
    seconds = time.monotonic() - started
    score = f"{scores['targets'][0]['normalized_score']:.1f}"
    return [name, str(logged), from_step[0][-8:].lstrip("0"), score, f"{seconds:.0f} s"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="decision-seq-smoke-") as folder:
        rows = [smoke(name, Path(folder)) for name in recipes()]
    print(table(["recipe", "killed at", "resumed from", "normalized", "took"], rows))


if __name__ == "__main__":
    main()
