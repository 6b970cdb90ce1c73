"""Tests of encoders: each stack of frames reaches only its own step."""

import numpy as np
import pytest
import torch

from decision_seq.models.encoders import ImageConfig, ImageEncoder, VectorConfig
from decision_seq.types import Spec, UserError

SHAPE = (4, 36, 40)


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageConfig((4, 8, 8)).build(SHAPE, 16)


@torch.no_grad()
def test_a_window_of_frames_is_encoded_as_its_stacks_are(encoder: ImageEncoder) -> None:
    frames = torch.randint(0, 256, (3, 4 - 1 + 6, 36, 40), dtype=torch.uint8)
    whole = encoder(frames)
    assert whole.shape == (3, 6, 16)
    for row in range(3):
        for step in range(6):
            stack = frames[row, step : step + 4]
            alone = encoder.embed(encoder.convolutions(stack[None].float() / 255))
            torch.testing.assert_close(whole[row, step], alone[0], rtol=1e-4, atol=1e-5)
    # A rollout encodes the stacks of one step, as the environment returns them.
    spec = Spec(SHAPE, 3, "discrete", 1, 10)
    torch.testing.assert_close(
        encoder(spec.one_step(frames[:, 2:6]))[:, 0], whole[:, 2], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_a_frame_is_seen_by_the_steps_whose_stacks_hold_it(encoder: ImageEncoder) -> None:
    frames = torch.randint(0, 256, (1, 4 - 1 + 6, 36, 40), dtype=torch.uint8)
    before = encoder(frames)
    frames[0, 4] = 255 - frames[0, 4]  # the newest frame of step 1, the oldest of step 4
    moved = (encoder(frames) != before).any(-1)[0]
    assert moved.tolist() == [False, True, True, True, True, False]


def test_a_frame_too_small_for_the_convolutions_is_refused() -> None:
    with pytest.raises(UserError, match="36 pixels"):
        ImageConfig().build((4, 35, 84), 8)


def test_the_papers_encoder_has_its_size() -> None:
    """Conv 4-32-64-64 and Linear 3136-128, as in kzl/decision-transformer atari/."""
    encoder = ImageConfig().build((4, 84, 84), 128)
    assert encoder.embed.in_features == 3136
    expected = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64 + (3136 + 1) * 128
    assert sum(weight.numel() for weight in encoder.parameters()) == expected


def test_a_vector_is_standardised() -> None:
    encoder = VectorConfig().build((2,), 4)
    encoder.take(np.array([1.0, 5.0]), np.array([2.0, 0.0]))
    torch.testing.assert_close(
        encoder(torch.tensor([[[5.0, 7.0]]])), encoder.embed(torch.tensor([[[2.0, 2.0]]]))
    )


def test_centered_frames_are_less_their_mean(make_frame_store) -> None:
    store = make_frame_store((300, 40), size=(40, 44))
    encoder = ImageConfig((4, 4, 4), centered=True).build((4, 40, 44), 8)
    encoder.fit(store)
    frames = store.columns["observations"].rows(0, 340).astype(np.float64)
    np.testing.assert_allclose(encoder.mean, frames.mean(0), rtol=1e-5)
    assert encoder.scale.item() == pytest.approx(frames.std(), rel=1e-5)
    plain = ImageConfig((4, 4, 4)).build((4, 40, 44), 8)
    plain.fit(store)
    plain.load_state_dict(encoder.state_dict() | {"mean": plain.mean, "scale": plain.scale})
    seen = torch.as_tensor(frames[None, :9])
    by_hand = (seen.float() - encoder.mean) / encoder.scale * 255
    torch.testing.assert_close(encoder(seen), plain(by_hand))
    assert (encoder(seen) != plain(seen)).any()
