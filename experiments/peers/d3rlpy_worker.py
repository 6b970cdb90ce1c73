"""Worker for d3rlpy's DecisionTransformer, configured as in its own reproduction of the paper."""

from __future__ import annotations

import sys

import d3rlpy
import numpy as np
import protocol
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

NOTES = (
    "a tanh after the predicted action, which ours lacks; the loss is summed over the action's"
    " dimensions; AdamW not fused; its step is a sampled batch and algo.update, without fit's logs"
)


def main() -> None:
    protocol.use_threads()
    d3rlpy.seed(0)
    with np.load(sys.argv[1]) as data:
        observations = data["observations"][:, :-1].reshape(-1, protocol.OBSERVATION)
        actions = data["actions"].reshape(-1, protocol.ACTION)
        terminals = np.zeros(data["rewards"].shape)
        terminals[:, -1] = 1
        rewards = data["rewards"].reshape(-1)
    dataset = d3rlpy.dataset.MDPDataset(observations, actions, rewards, terminals.reshape(-1))
    algo = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=protocol.BATCH,
        learning_rate=protocol.LEARNING_RATE,
        optim_factory=d3rlpy.optimizers.AdamWFactory(
            weight_decay=protocol.WEIGHT_DECAY, clip_grad_norm=protocol.CLIP
        ),
        encoder_factory=d3rlpy.models.VectorEncoderFactory(
            [protocol.WIDTH], exclude_last_activation=True
        ),
        observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(
            mean=observations.mean(0), std=observations.std(0)
        ),
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(1 / protocol.SCALE),
        context_size=protocol.CONTEXT,
        max_timestep=protocol.LENGTH,
        num_heads=protocol.HEADS,
        num_layers=protocol.LAYERS,
        attn_dropout=protocol.DROPOUT,
        resid_dropout=protocol.DROPOUT,
        embed_dropout=protocol.DROPOUT,
        position_encoding_type=d3rlpy.PositionEncodingType.SIMPLE,
    ).create(device="cpu:0")
    algo.build_with_dataset(dataset)

    def sample():
        return dataset.sample_trajectory_batch(protocol.BATCH, length=protocol.CONTEXT)

    batch = TorchTrajectoryMiniBatch.from_batch(
        sample(),
        "cpu:0",
        observation_scaler=algo.observation_scaler,
        action_scaler=algo.action_scaler,
        reward_scaler=algo.reward_scaler,
    )
    transformer = algo.impl.modules.transformer
    protocol.serve(
        d3rlpy.__version__,
        sum(weight.numel() for weight in transformer.parameters()),
        NOTES,
        {
            "update": lambda: algo.impl.update(batch, 0)["loss"],
            "step": lambda: algo.update(sample())["loss"],
        },
    )


if __name__ == "__main__":
    main()
