"""Train a behaviour policy for the bundled datasets with Stable-Baselines3's PPO; keep its actors.

Every `--snapshot-every` steps the actor is written as safetensors (two ReLU layers, a Gaussian,
actions clipped to [-1, 1]; the running normalisation of observations is folded into the first
layer), beside a line in `log.jsonl` with the returns of 32 episodes of its sampled and of its
deterministic actions, measured with the written file. The tiers (random, medium, expert, ...) are
chosen afterwards from those lines.

Observations and rewards are normalised; the hyper-parameters are those that RL Baselines3 Zoo tuned
for PPO on these environments (hyperparams/ppo.yml), one environment copy at a time. Resumable:
started again with the same `--output` it goes on from the last snapshot.

    pip install -e '.[collect]'
    python experiments/behaviour/train_behaviour.py --env Hopper-v4 --output runs/hopper-ppo
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from decision_seq.data.behaviour import GaussianPolicy, run_wave
from decision_seq.envs import make

# RL Baselines3 Zoo, hyperparams/ppo.yml. A low initial noise keeps the sampled actions close to the
# mean, so that a tier's returns tell its skill and not its noise.
TUNED = {
    "Hopper": {
        "n_steps": 512,
        "batch_size": 32,
        "gamma": 0.999,
        "learning_rate": 9.80828e-5,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
    },
    "HalfCheetah": {
        "n_steps": 512,
        "batch_size": 64,
        "gamma": 0.98,
        "learning_rate": 2.0633e-5,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
    },
    "Walker2d": {
        "n_steps": 512,
        "batch_size": 32,
        "gamma": 0.99,
        "learning_rate": 5.05041e-5,
        "ent_coef": 0.000585045,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.95,
        "max_grad_norm": 1.0,
        "vf_coef": 0.871923,
    },
    # Ours: the zoo has no such task.
    "Reacher2d": {
        "n_steps": 2048,
        "batch_size": 64,
        "gamma": 0.95,
        "learning_rate": 3e-4,
        "ent_coef": 0.0,
        "clip_range": 0.2,
        "n_epochs": 10,
        "gae_lambda": 0.9,
        "max_grad_norm": 0.5,
        "vf_coef": 0.5,
    },
}


class Nearer(gym.RewardWrapper):
    """Reacher2d's sparse reward, less half the distance to the target: for training alone."""

    def step(self, action: np.ndarray) -> tuple:
        observation, reward, *rest = self.env.step(action)
        return observation, reward - 0.5 * np.abs(observation[10:]).sum(), *rest


def make_env(env_id: str) -> gym.Env:
    """The environment as the algorithm sees it."""
    env = make(env_id)
    return Nearer(env) if env_id.startswith("Reacher2d") else env


@dataclass(frozen=True)
class Deterministic:
    """A policy without its noise."""

    policy: GaussianPolicy

    @property
    def description(self) -> str:
        return self.policy.description

    @property
    def sizes(self) -> tuple[int, int]:
        return self.policy.sizes

    def act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self.policy.act(observations, np.zeros_like(noise))


def actor_tensors(model: PPO, envs: VecNormalize) -> dict[str, torch.Tensor]:
    """The actor under the names D4RL gives its embedded policies (`metadata/policy`)."""
    first, _, second, _ = model.policy.mlp_extractor.policy_net
    mean = torch.as_tensor(envs.obs_rms.mean, dtype=torch.float32)
    std = torch.as_tensor(np.sqrt(envs.obs_rms.var + envs.epsilon), dtype=torch.float32)
    weight = first.weight.detach() / std
    log_std = model.policy.log_std.detach()
    head = model.policy.action_net
    tensors = {
        "fc0/weight": weight,
        "fc0/bias": first.bias.detach() - weight @ mean,
        "fc1/weight": second.weight.detach(),
        "fc1/bias": second.bias.detach(),
        "last_fc/weight": head.weight.detach(),
        "last_fc/bias": head.bias.detach(),
        "last_fc_log_std/weight": torch.zeros_like(head.weight),
        "last_fc_log_std/bias": log_std,
    }
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def write_whole(path: Path, write) -> None:
    """Write to a temporary name, then rename: a killed run never leaves half a file."""
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    write(temporary)
    os.replace(temporary, path)


def snapshot(model: PPO, envs: VecNormalize, args: argparse.Namespace, seconds: float) -> None:
    """Actor, its measured returns and everything needed to resume."""
    steps = model.num_timesteps
    facts = {
        "environment": args.env,
        "algorithm": "PPO (Stable-Baselines3)",
        "seed": str(args.seed),
        "steps": str(steps),
        "squash": "clip",
    }
    path = args.output / f"actor-{steps:08d}.safetensors"
    write_whole(path, lambda file: save_file(actor_tensors(model, envs), file, metadata=facts))
    policy = GaussianPolicy.load(path)
    returns = {
        name: [float(e.rewards.sum()) for e in run_wave(actor, args.env, 1_000_000, 0)]
        for name, actor in (("sampled", policy), ("deterministic", Deterministic(policy)))
    }
    write_whole(args.output / "normalization.pkl", envs.save)
    write_whole(args.output / "model.zip", model.save)
    with open(args.output / "log.jsonl", "a") as log:
        log.write(json.dumps({**facts, "steps": steps, "seconds": seconds, **returns}) + "\n")
    means = "  ".join(f"{k} {np.mean(v):7.1f} ± {np.std(v):6.1f}" for k, v in returns.items())
    print(f"{steps:>9,} steps  {seconds / 60:6.1f} min  {means}", flush=True)


def build(args: argparse.Namespace) -> tuple[PPO, VecNormalize, float]:
    """The model and its environments, new or as the last snapshot left them; seconds spent."""
    envs = make_vec_env(lambda: make_env(args.env), 1, seed=args.seed)
    tuned: dict[str, Any] = dict(TUNED[args.env.partition("-")[0]])
    if (args.output / "model.zip").is_file():
        normalized = VecNormalize.load(str(args.output / "normalization.pkl"), envs)
        model = PPO.load(args.output / "model.zip", env=normalized, device="cpu")
        last = json.loads((args.output / "log.jsonl").read_text().splitlines()[-1])
        return model, normalized, last["seconds"]
    if args.learning_rate is not None:
        tuned["learning_rate"] = args.learning_rate
    normalized = VecNormalize(envs, gamma=tuned["gamma"])
    model = PPO(
        "MlpPolicy",
        normalized,
        **tuned,
        policy_kwargs={
            "activation_fn": torch.nn.ReLU,
            "net_arch": [args.width, args.width],
            "log_std_init": args.log_std,
            "ortho_init": False,
        },
        seed=args.seed,
        device="cpu",
    )
    return model, normalized, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Hopper-v4")
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--snapshot-every", type=int, default=50_000)
    parser.add_argument("--learning-rate", type=float, help="default: the tuned one")
    parser.add_argument("--log-std", type=float, default=-2.0, help="of the noise, at first")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    model, envs, spent = build(args)
    started = time.monotonic() - spent
    while model.num_timesteps < args.steps:
        model.learn(args.snapshot_every, reset_num_timesteps=False)
        snapshot(model, envs, args, time.monotonic() - started)


if __name__ == "__main__":
    main()
