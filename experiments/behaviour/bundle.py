"""Export the policies of the bundled datasets from training runs, and record their returns.

Reads a YAML of the chosen snapshots:

    hopper:
      env: Hopper-v4
      run: runs/hopper
      medium: [204800, 0.3]      # steps of the snapshot; factor of its noise
      expert: [256000, 0.3]
      replay: [51200, 102400, 153600, 204800]   # with the noise of training

and writes decision_seq/datasets/collected/behaviours/*.safetensors, and datasets.json with the
episodes and the mean return of every default collection.

    python experiments/behaviour/bundle.py experiments/behaviour/tiers.yml --runs runs
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from decision_seq.datasets.collected import bundled


def export(run: Path, steps: int, noise: float, name: str) -> str:
    """Write a snapshot with scaled noise as `name` -> the file's name."""
    with safe_open(run / f"actor-{steps:08d}.safetensors", "np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = {**file.metadata(), "noise": f"{noise:g}"}
    tensors["last_fc_log_std/bias"] = tensors["last_fc_log_std/bias"] + np.float32(np.log(noise))
    save_file(tensors, bundled.POLICIES / f"{name}.safetensors", metadata=facts)
    return f"{name}.safetensors"


def recipes(task: str, facts: dict[str, Any], runs: Path) -> dict[str, tuple[str, ...]]:
    """Parts of every dataset of a task."""
    run = runs / facts["run"]
    medium, expert = (export(run, *facts[tier], f"{task}-{tier}") for tier in ("medium", "expert"))
    replay = [export(run, steps, 1.0, f"{task}-replay-{steps:07d}") for steps in facts["replay"]]
    return {
        f"{task}-random": ("uniform",),
        f"{task}-medium": (medium,),
        f"{task}-medium-replay": ("uniform", *replay),
        f"{task}-medium-expert": (medium, expert),
        f"{task}-expert": (expert,),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tiers", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", help="bundle only this task")
    args = parser.parse_args()
    table_file = bundled.POLICIES / "datasets.json"
    table = {name: dataclasses.asdict(recipe) for name, recipe in bundled.bundled().items()}
    for task, facts in yaml.safe_load(args.tiers.read_text()).items():
        if args.only not in (None, task):
            continue
        for name, parts in recipes(task, facts, args.runs).items():
            with tempfile.TemporaryDirectory() as folder:
                recipe = bundled.Bundled(facts["env"], parts, 0, 0.0)
                store = bundled.collect_recipe(name, recipe, Path(folder) / "store")
                returns = store.returns
            table[name] = {
                "env_id": facts["env"],
                "parts": list(parts),
                "episodes": store.num_episodes,
                "return_mean": round(float(returns.mean()), 1),
                "return_std": round(float(returns.std()), 1),
                "return_max": round(float(returns.max()), 1),
            }
            print(name, json.dumps(table[name]), flush=True)
            table_file.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
