"""Encoders: observations to tokens.

To add one: a module here, and a frozen config that inherits `EncoderConfig`, registers itself and
builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import draccus
import numpy as np
import torch
from torch import Tensor, nn

from decision_seq.config import require
from decision_seq.datasets.store import EpisodeStore

FIT_FRAMES = 2_000  # frames, spread evenly over the data, whose mean is the mean frame


class Encoder(nn.Module):
    """Encodes the observations of a `Batch` as one token per step, each step independently."""

    def fit(self, store: EpisodeStore) -> None:
        """Compute statistics of the data, before training."""

    def forward(self, observations: Tensor) -> Tensor:
        """[B, T, S] or [B, stack - 1 + T, H, W] -> [B, T, D]."""
        raise NotImplementedError


@dataclass(frozen=True)
class EncoderConfig(draccus.ChoiceRegistry):
    """An encoder's hyper-parameters and the only place of their defaults.

    observations: the kinds of observation that it encodes, of `vector` and `frames`.
    """

    observations: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def default_choice_name(cls) -> str:
        return "vector"

    def build(self, shape: tuple[int, ...], width: int) -> Encoder:
        """shape: of one observation; UserError where the encoder does not take such a shape."""
        raise NotImplementedError

    @final
    def check(self, shape: tuple[int, ...]) -> None:
        """UserError unless observations of this shape are of a kind that is encoded."""
        kind = {1: "vector", 3: "frames"}.get(len(shape), "other")
        known = sorted(EncoderConfig.get_known_choices().items())
        fitting = [name for name, config in known if kind in config.observations]
        remedy = f"; take --policy.encoder.name {' or '.join(fitting)}" if fitting else ""
        require(
            kind in self.observations,
            f"the encoder `{EncoderConfig.get_choice_name(type(self))}` needs"
            f" {' or '.join(self.observations)} observations, not ones of shape {shape}{remedy}",
        )


class Standardizer(Encoder):
    """Standardises a vector by the data's statistics.

    They are buffers: fitted once from the store, and saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, store: EpisodeStore) -> None:
        self.take(*store.observation_statistics)

    def take(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Mean and population standard deviation of the observations, [S] each.

        A dimension that is constant in the data is only centred. (kzl/decision-transformer,
        gym/experiment.py, divides it by 1e-6: if it varies at evaluation, as the contact forces of
        D4RL's ant do in newer simulators, it then dominates all others.)
        """
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(np.where(std > 1e-6, std + 1e-6, 1.0)))

    def forward(self, observations: Tensor) -> Tensor:
        """[B, T, S] -> [B, T, S]."""
        return (observations - self.mean) / self.std


@EncoderConfig.register_subclass("vector")
@dataclass(frozen=True)
class VectorConfig(EncoderConfig):
    """An encoder of vectors: standardisation, then a linear layer."""

    observations: ClassVar[tuple[str, ...]] = ("vector",)

    def build(self, shape: tuple[int, ...], width: int) -> VectorEncoder:
        self.check(shape)
        return VectorEncoder(shape[0], width)


class VectorEncoder(Standardizer):
    """Standardises a vector, then embeds it linearly into one token."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size)
        self.embed = nn.Linear(size, width)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, T, S] -> [B, T, D]."""
        return self.embed(super().forward(observations))


@EncoderConfig.register_subclass("image")
@dataclass(frozen=True)
class ImageConfig(EncoderConfig):
    """Three convolutions. Defaults: kzl/decision-transformer atari/."""

    observations: ClassVar[tuple[str, ...]] = ("frames",)
    channels: tuple[int, int, int] = (32, 64, 64)
    """Channels of the three convolutions."""
    centered: bool = False
    """Subtract the data's mean frame, and divide by the standard deviation of the pixels instead of
    255. Without it the static background dominates: in an hour on two cores, a small network
    learns to see Pong's ball with it and not without it."""

    def __post_init__(self) -> None:
        for count in self.channels:
            require(
                1 <= count <= 4096,
                f"config: policy.encoder.channels {count} must be at least 1, and 4,096 at most",
            )

    def build(self, shape: tuple[int, ...], width: int) -> ImageEncoder:
        self.check(shape)
        require(
            min(shape[1:]) >= 36,
            f"the encoder `image` needs stacks of frames of 36 pixels at least, not observations of"
            f" shape {shape}",
        )
        return ImageEncoder(shape, self, width)


class ImageEncoder(Encoder):
    """The convolutions of DQN (Mnih et al., 2015) over a stack of frames, then one linear layer.

    Facts: kzl/decision-transformer atari/mingpt/model_atari.py. The tanh that follows there is in
    the policy here (`squash`).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], config: ImageConfig, width: int) -> None:
        super().__init__()
        self.stack, self.centered = shape[0], config.centered
        self.register_buffer("mean", torch.zeros(shape[1:]))
        self.register_buffer("scale", torch.tensor(255.0))
        sizes = (self.stack, *config.channels)
        layers: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(((8, 4), (4, 2), (3, 1))):
            layers += [nn.Conv2d(sizes[i], sizes[i + 1], kernel, stride), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.embed = nn.Linear(flat, width)

    def fit(self, store: EpisodeStore) -> None:
        if not self.centered:
            return
        count = store.num_transitions
        rows = np.unique(np.linspace(0, count - 1, min(count, FIT_FRAMES)).astype(np.int64))
        total = np.zeros(self.mean.shape)
        for part in np.array_split(rows, -(-len(rows) // 100)):
            total += store.columns["observations"].take(part).sum(0, dtype=np.float64)
        self.mean.copy_(torch.as_tensor(total / len(rows)))
        self.scale.copy_(torch.as_tensor(max(store.observation_statistics[1], 1.0)))

    def forward(self, observations: Tensor) -> Tensor:
        """Frames [B, stack - 1 + T, H, W], 0 to 255 -> [B, T, D]."""
        steps = observations.shape[1] - self.stack + 1
        frames = [observations[:, i : i + steps] for i in range(self.stack)]  # [B, T, H, W] each
        # Channels last in memory: on a CPU that halves the time of the backward pass.
        stacks = torch.stack(frames, -1).flatten(0, 1).permute(0, 3, 1, 2)  # [B * T, stack, H, W]
        stacks = stacks.to(self.scale.dtype)
        stacks = stacks.sub_(self.mean).div_(self.scale)  # in place: they are most of the memory
        return self.embed(self.convolutions(stacks)).unflatten(0, (-1, steps))
