"""Worker for torchrl's DTActor and DTLoss, with a replay buffer as in its own DT script.

The transforms of the offline buffer, the tanh head and Adam are the script's
(sota-implementations/decision_transformer). The script clips the gradient before the backward pass;
here it is clipped after it.
"""

from __future__ import annotations

import sys

import numpy as np
import protocol
import torch
import torchrl
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import DoubleToFloat, ObservationNorm, RandomCropTensorDict, RewardScaling
from torchrl.modules import DecisionTransformer, DTActor, ProbabilisticActor, TanhDelta
from torchrl.objectives import DTLoss

NOTES = (
    "transformers' GPT-2 with its position table, no timestep embedding, relu; a tanh after the"
    " predicted action; no mask in attention or loss; Adam not fused; its step copies whole"
    " episodes from a buffer in memory and crops them, here without its prefetching threads"
)
KEYS = ("observation", "action", "return_to_go")


def make_buffer() -> TensorDictReplayBuffer:
    """Buffer of the driver's episodes, one item each; a sample contains crops of 64 of them."""
    with np.load(sys.argv[1]) as data:
        observations = torch.from_numpy(data["observations"][:, :-1])
        actions = torch.from_numpy(data["actions"])
        rewards = torch.from_numpy(data["rewards"])
    episodes = TensorDict(
        {
            "observation": observations,
            "action": actions,
            "return_to_go": rewards.flip(1).cumsum(1).flip(1)[..., None],
        },
        batch_size=rewards.shape,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(episodes), ndim=1), batch_size=protocol.BATCH
    )
    buffer.extend(episodes)
    flat = observations.flatten(0, 1)
    for transform in (
        RandomCropTensorDict(sub_seq_len=protocol.CONTEXT, sample_dim=-1),
        RewardScaling(
            loc=0, scale=1 / protocol.SCALE, in_keys=["return_to_go"], standard_normal=False
        ),
        DoubleToFloat(),
        ObservationNorm(
            loc=flat.mean(0), scale=flat.std(0), in_keys=["observation"], standard_normal=True
        ),
    ):
        buffer.append_transform(transform)
    return buffer


def main() -> None:
    protocol.use_threads()
    torch.manual_seed(0)
    config = DecisionTransformer.DTConfig(
        n_embd=protocol.WIDTH,
        n_layer=protocol.LAYERS,
        n_head=protocol.HEADS,
        n_inner=4 * protocol.WIDTH,
        resid_pdrop=protocol.DROPOUT,
        attn_pdrop=protocol.DROPOUT,
    )
    network = TensorDictModule(
        DTActor(protocol.OBSERVATION, protocol.ACTION, transformer_config=config),
        in_keys=list(KEYS),
        out_keys=["param"],
    )
    policy = ProbabilisticActor(
        network,
        in_keys=["param"],
        out_keys=["predicted"],
        distribution_class=TanhDelta,
        distribution_kwargs={"low": -1.0, "high": 1.0},
    ).train()
    loss_module = DTLoss(policy)
    loss_module.set_keys(action_pred="predicted", action_target="action")
    weights = list(policy.parameters())
    optimizer = torch.optim.Adam(
        weights, lr=protocol.LEARNING_RATE, weight_decay=protocol.WEIGHT_DECAY
    )
    buffer = make_buffer()
    batch = buffer.sample()

    def update(batch: TensorDict) -> float:
        loss = loss_module(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, protocol.CLIP)
        optimizer.step()
        return loss.item()

    protocol.serve(
        torchrl.__version__,
        sum(weight.numel() for weight in weights),
        NOTES,
        {"update": lambda: update(batch), "step": lambda: update(buffer.sample())},
    )


if __name__ == "__main__":
    main()
