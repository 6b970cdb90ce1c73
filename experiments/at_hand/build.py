"""Train the small policies that come with the package, `bundled/NAME`, and pack them.

    python experiments/at_hand/build.py --runs runs/at_hand            # trains what is missing
    python experiments/at_hand/build.py --runs runs/at_hand --pack     # packs the finished runs

A packed policy is the last checkpoint without the optimizer's state, with the scores of its one
evaluation at the targets declared before training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from decision_seq import at_hand, checkpoint
from decision_seq.config import save_text
from decision_seq.formatting import json_text

# Name -> the options of `decision-seq train` that differ from the dataset's recipe.
POLICIES = {
    "hopper-medium-dt": ["--dataset", "bundled/hopper-medium"],
    "hopper-medium-bc": ["--dataset", "bundled/hopper-medium", "--config", "bc/gym"],
    "hopper-medium-tt": [
        *("--dataset", "bundled/hopper-medium", "--config", "tt/small"),
        *("--train.steps", "2500", "--evaluation.episodes", "10"),
    ],
    "key-to-door-dt": ["--dataset", "key-to-door-10k"],
    "pong-dt": [
        *("--dataset", "atari/bundled-pong"),
        *("--train.steps", "900", "--evaluation.episodes", "10"),
    ],
}
MOST_BYTES = 3_000_000  # of one policy


def train(name: str, runs: Path) -> None:
    """Train a policy, or go on with its training."""
    few = ["--seed", "0", "--train.trackers", "[]", "--train.keep_checkpoints", "1"]
    command = [sys.executable, "-m", "decision_seq", "train", *POLICIES[name], *few]
    subprocess.run([*command, "--output", str(runs / name), "--resume", "auto"], check=True)


def pack(name: str, runs: Path, output: Path) -> None:
    """Copy what a rollout needs of a finished run, with its scores and a card."""
    run = runs / name
    scores = json.loads((run / "scores.json").read_text())
    provenance = json.loads((run / "provenance.json").read_text())
    source, folder = checkpoint.find(run), output / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "trainer").mkdir(parents=True)
    for kept in checkpoint.ACTING:
        shutil.copyfile(source / kept, folder / kept)
    state = checkpoint.read_trainer(source)
    sums = {key: state["sha256"][key] for key in checkpoint.ACTING}
    empty = {"topology": {}, "scaler": {}}
    small = {"step": state["step"], **empty, "sha256": sums}
    save_text(folder / checkpoint.STATE, json_text(small) + "\n")
    scores["checkpoint"] = f"{at_hand.PREFIX}{name}"
    save_text(folder / "scores.json", json_text(scores) + "\n")
    save_text(folder / "README.md", card(name, scores, provenance, state["step"]))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= MOST_BYTES, f"{name} has {size:,} bytes"
    print(f"{name}: {size:,} bytes")


def row(score: dict) -> str:
    """A row of the card's table."""
    target, normalized = (
        "-" if value is None else f"{value:,.1f}"
        for value in (score["target"], score["normalized_score"])
    )
    spread = f"{score['return_mean']:,.1f} ± {score['return_std']:,.1f}"
    return f"| {target} | {spread} | {normalized} | {score['episodes']} |"


def card(name: str, scores: dict, provenance: dict, steps: int) -> str:
    """The card of a policy: command, data, scores, versions."""
    packages = ", ".join(f"{key} {value}" for key, value in provenance["packages"].items())
    header = "| target | return (mean ± std) | normalized | episodes |\n|---:|---:|---:|---:|"
    table = "\n".join([header, *map(row, scores["targets"])])
    options = " ".join(POLICIES[name])
    return f"""# bundled/{name}

`decision-seq train {options} --seed 0`, {steps:,} updates.

{table}

The last checkpoint, at targets declared before training; one seed; episode i starts from seed
{scores["targets"][0]["seed"]} + i. Environment {scores["env_id"]}. Data: {scores["source"]}.

Versions: {packages}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/at_hand"), help="folder of the runs"
    )
    parser.add_argument("--only", choices=list(POLICIES), help="one policy; default all")
    parser.add_argument("--pack", action="store_true", help="pack the finished runs")
    options = parser.parse_args()
    for name in [options.only] if options.only else POLICIES:
        if options.pack:
            pack(name, options.runs, at_hand.FOLDER)
        else:
            train(name, options.runs)


if __name__ == "__main__":
    main()
