"""Train a behaviour policy for the bundled datasets with Stable-Baselines3's PPO; save its actors.

Every `--snapshot-every` steps the actor is written as safetensors (two ReLU layers, a Gaussian,
actions clipped to [-1, 1]; the running normalisation of observations is folded into the first
layer). A line in `log.jsonl` records the returns of 32 episodes of its sampled and of its
deterministic actions, measured with the written file. The tiers (random, medium, expert, ...) are
chosen afterwards from those lines.

Observations and rewards are normalised; SETTINGS holds the hyper-parameters of every task. Started
again with the same `--output`, training resumes from the last snapshot.

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

from decision_seq.datasets.collected.behaviour import GaussianPolicy
from decision_seq.datasets.collected.collection import CHUNK, run_chunk
from decision_seq.envs import make


@dataclass(frozen=True)
class Setting:
    """Training settings of a task."""

    num_envs: int
    """Number of parallel environments."""
    width: int
    """Width of the two hidden layers."""
    log_std: float
    """Initial logarithm of the noise's standard deviation."""
    orthogonal: bool
    """Whether weights are initialised orthogonally."""
    ppo: dict[str, Any]
    """PPO arguments that differ from the library's defaults."""


SETTINGS = {
    "Hopper": Setting(4, 128, 0.0, True, {"n_steps": 512}),
    "Walker2d": Setting(4, 128, 0.0, True, {"n_steps": 512}),
    # Settings of RL Baselines3 Zoo (hyperparams/ppo.yml), which learn this task several times
    # faster. (Its settings for the other two do worse here than the defaults: the hopper learns to
    # stand still.)
    "HalfCheetah": Setting(
        1,
        128,
        -2.0,
        False,
        {
            "n_steps": 512,
            "gamma": 0.98,
            "learning_rate": 2.0633e-5,
            "ent_coef": 0.000401762,
            "clip_range": 0.1,
            "n_epochs": 20,
            "gae_lambda": 0.92,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
        },
    ),
    "Reacher2d": Setting(1, 64, -1.0, False, {"gamma": 0.95, "gae_lambda": 0.9}),
}


class Nearer(gym.RewardWrapper):
    """Reacher2d's sparse reward minus half the distance to the target; used only in training."""

    def step(self, action: np.ndarray) -> tuple:
        observation, reward, *rest = self.env.step(action)
        return observation, reward - 0.5 * np.abs(observation[10:]).sum(), *rest


def make_env(env_id: str) -> gym.Env:
    """Environment for training, with a shaped reward for Reacher2d."""
    env = make(env_id)
    return Nearer(env) if env_id.startswith("Reacher2d") else env


@dataclass(frozen=True)
class Deterministic:
    """Behaviour policy without noise."""

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
    """The actor's tensors, named as in D4RL's embedded policies (`metadata/policy`)."""
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
    """Write to a temporary name, then rename, so that a killed run leaves no partial file."""
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    write(temporary)
    os.replace(temporary, path)


def snapshot(model: PPO, envs: VecNormalize, args: argparse.Namespace, seconds: float) -> None:
    """Save the actor, its measured returns and everything needed to resume."""
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
        name: [
            float(episode.rewards.sum())
            for first in range(0, 32, CHUNK)
            for episode in run_chunk(actor, args.env, (1_000_000,), first, CHUNK)
        ]
        for name, actor in (("sampled", policy), ("deterministic", Deterministic(policy)))
    }
    write_whole(args.output / "normalization.pkl", envs.save)
    write_whole(args.output / "model.zip", model.save)
    with open(args.output / "log.jsonl", "a") as log:
        log.write(json.dumps({**facts, "steps": steps, "seconds": seconds, **returns}) + "\n")
    means = "  ".join(f"{k} {np.mean(v):7.1f} ± {np.std(v):6.1f}" for k, v in returns.items())
    print(f"{steps:>9,} steps  {seconds / 60:6.1f} min  {means}", flush=True)


def build(args: argparse.Namespace) -> tuple[PPO, VecNormalize, float]:
    """The model, its environments and the seconds spent, new or restored from the last snapshot."""
    setting = SETTINGS[args.env.partition("-")[0]]
    envs = make_vec_env(lambda: make_env(args.env), setting.num_envs, seed=args.seed)
    if (args.output / "model.zip").is_file():
        normalized = VecNormalize.load(str(args.output / "normalization.pkl"), envs)
        model = PPO.load(args.output / "model.zip", env=normalized, device="cpu")
        last = json.loads((args.output / "log.jsonl").read_text().splitlines()[-1])
        return model, normalized, last["seconds"]
    normalized = VecNormalize(envs, gamma=setting.ppo.get("gamma", 0.99))
    model = PPO(
        "MlpPolicy",
        normalized,
        **setting.ppo,
        policy_kwargs={
            "activation_fn": torch.nn.ReLU,
            "net_arch": [setting.width, setting.width],
            "log_std_init": setting.log_std,
            "ortho_init": setting.orthogonal,
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
