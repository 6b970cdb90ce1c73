"""Train a behaviour policy for the bundled datasets with Stable-Baselines3, and keep its actors.

Off-policy actor-critic (SAC or TQC) with a 2 x 256 tanh-Gaussian actor: the form D4RL's own v2 files
carry. Every `--snapshot-every` steps the actor is written as safetensors beside a line in `log.jsonl`
with the returns of its sampled and its deterministic actions, so that the tiers (random, medium,
expert, ...) are chosen afterwards from measured returns.

The script is resumable: started again with the same `--output` it goes on from the last snapshot,
replay buffer included.

    pip install -e '.[collect]'
    python experiments/behaviour/train_behaviour.py --env Hopper-v4 --algorithm tqc --output runs/hopper-tqc
"""

import argparse
import json
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.torch import save_file
from sb3_contrib import TQC
from stable_baselines3 import SAC

ALGORITHMS = {"sac": SAC, "tqc": TQC}


def actor_tensors(actor: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The actor's weights under D4RL's names for its embedded policies (`metadata/policy`)."""
    first, _, second, _ = actor.latent_pi
    layers = {"fc0": first, "fc1": second, "last_fc": actor.mu, "last_fc_log_std": actor.log_std}
    return {
        f"{name}/{part}": getattr(layer, part).detach().clone().contiguous()
        for name, layer in layers.items()
        for part in ("weight", "bias")
    }


def episode_returns(
    model, env_id: str, episodes: int, deterministic: bool, seed: int
) -> list[float]:
    """Undiscounted returns of `episodes` whole episodes, all environments stepped together."""
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns = np.zeros(episodes)
    running = np.ones(episodes, bool)
    while running.any():
        rows = np.flatnonzero(running)
        actions, _ = model.predict(observations[rows], deterministic=deterministic)
        for row, action in zip(rows, actions, strict=True):
            observations[row], reward, terminated, truncated, _ = envs[row].step(action)
            returns[row] += reward
            running[row] = not (terminated or truncated)
    return returns.tolist()


def write_whole(path: Path, write) -> None:
    """Write to a temporary name, then rename: a killed run never leaves half a file."""
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    write(temporary)
    os.replace(temporary, path)


def snapshot(model, args: argparse.Namespace, output: Path, elapsed: float) -> None:
    """Actor, its measured returns and everything needed to resume."""
    steps = model.num_timesteps
    record = {
        "environment": args.env,
        "algorithm": args.algorithm,
        "seed": args.seed,
        "steps": steps,
        "seconds": round(elapsed, 1),
        "sampled": episode_returns(model, args.env, args.episodes, False, 10_000),
        "deterministic": episode_returns(model, args.env, args.episodes, True, 20_000),
    }
    facts = {key: str(record[key]) for key in ("environment", "algorithm", "seed", "steps")}
    write_whole(
        output / f"actor-{steps:08d}.safetensors",
        lambda path: save_file(actor_tensors(model.actor), path, metadata=facts),
    )
    write_whole(output / "model.zip", model.save)
    write_whole(output / "replay.pkl", model.save_replay_buffer)
    with open(output / "log.jsonl", "a") as log:
        log.write(json.dumps(record) + "\n")
    print(
        f"{steps:>9,} steps  {elapsed / 60:6.1f} min  sampled {np.mean(record['sampled']):7.1f}"
        f"  deterministic {np.mean(record['deterministic']):7.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Hopper-v4")
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="sac")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--snapshot-every", type=int, default=25_000)
    parser.add_argument(
        "--episodes", type=int, default=10, help="episodes in each snapshot's measurement"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    algorithm = ALGORITHMS[args.algorithm]
    environment = gymnasium.make(args.env)
    elapsed = 0.0
    if (args.output / "model.zip").is_file():
        model = algorithm.load(args.output / "model.zip", env=environment, device="cpu")
        model.load_replay_buffer(args.output / "replay.pkl")
        elapsed = json.loads((args.output / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    else:
        model = algorithm(
            "MlpPolicy",
            environment,
            learning_starts=10_000,
            batch_size=args.batch_size,
            policy_kwargs={"net_arch": [256, 256]},
            seed=args.seed,
            device="cpu",
        )
    started = time.monotonic() - elapsed
    while model.num_timesteps < args.steps:
        model.learn(args.snapshot_every, reset_num_timesteps=False)
        snapshot(model, args, args.output, time.monotonic() - started)


if __name__ == "__main__":
    main()
