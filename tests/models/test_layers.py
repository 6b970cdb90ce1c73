import numpy as np
import pytest
import torch

from decision_seq.models.backbones import BackboneConfig, GPTConfig
from decision_seq.models.encoders import VectorEncoder
from decision_seq.models.layers import CausalSelfAttention, Dropout, causal_mask, select


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1000, 1003, requires_grad=True)
    dropped = Dropout(probability).train()(ones)
    zero = (dropped == 0).float().mean().item()
    deviation = (probability * (1 - probability) / ones.numel()) ** 0.5
    assert abs(zero - probability) < 5 * deviation + 1 / 65536
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    dropped.sum().backward()
    torch.testing.assert_close(ones.grad, dropped.detach())  # the same mask, the same scale


def test_dropout_masks_are_independent_along_rows_and_columns() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(2000, 256)) != 0).double().numpy()
    for axis in (kept, kept.T):
        correlations = np.corrcoef(axis[:, :64], rowvar=False)[np.triu_indices(64, 1)]
        assert np.abs(correlations).max() < 5.5 / len(axis) ** 0.5


def test_dropout_follows_torchs_seed_and_rests_in_evaluation() -> None:
    layer, ones = Dropout(0.3), torch.ones(50)
    drawn = []
    for _ in range(2):
        torch.manual_seed(4)
        drawn.append(layer(ones))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert (layer(ones) != drawn[0]).any()
    assert layer.eval()(ones) is ones


READS = {
    "slice": slice(1, None, 3),
    "positions": torch.tensor([0, 4, 5, 10]),
    "row by row": torch.tensor([[3, 1], [10, 0], [2, 2], [9, 10]]),
}


@pytest.mark.parametrize("name", sorted(BackboneConfig.get_known_choices()))
@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_reading_some_positions_computes_the_same_numbers(name: str, read) -> None:
    torch.manual_seed(0)
    backbone = BackboneConfig.get_choice_class(name)().build().eval()
    tokens = torch.randn(4, 11, backbone.width)
    with torch.no_grad():
        whole, part = backbone(tokens)[0], backbone(tokens, read)[0]
    torch.testing.assert_close(part, select(whole, read), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(BackboneConfig.get_known_choices()))
def test_a_backbone_is_causal(name: str) -> None:
    """Invariant 1, with fresh noise: a constant would be cancelled by the LayerNorms."""
    torch.manual_seed(0)
    backbone = BackboneConfig.get_choice_class(name)().build().eval()
    tokens = torch.randn(3, 12, backbone.width)
    with torch.no_grad():
        before, _ = backbone(tokens)
        for position in range(1, 12):
            noisy = tokens.clone()
            noisy[:, position:] = torch.randn_like(noisy[:, position:]) * 10
            after, _ = backbone(noisy)
            torch.testing.assert_close(after[:, :position], before[:, :position])
            assert (after[:, position:] != before[:, position:]).any(-1).all()


def test_causal_mask_is_a_triangle() -> None:
    whole = causal_mask(5, slice(None), torch.device("cpu"))
    assert torch.equal(whole, torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("hidden", [None, 3])
def test_the_weights_are_those_that_values_are_mixed_by(hidden: int | None) -> None:
    """Explicit weights, also with near-zero dropout, give the kernel's result, masked or not."""
    torch.manual_seed(0)
    layer, tokens = CausalSelfAttention(12, 3, 0.2).eval(), torch.randn(2, 7, 12)
    mask = None if hidden is None else torch.ones(7, 7).tril().bool() & (torch.arange(7) != hidden)
    expected = layer(tokens, mask=mask)
    weights = layer.weights(tokens, mask)
    values = layer.split(layer.query_key_value(tokens).chunk(3, -1)[2])
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.output(mixed), expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
    assert (weights.triu(1) == 0).all()
    assert hidden is None or (weights[..., hidden] == 0).all()
    layer.train().dropout.probability = 1e-9  # rounds to no dropout
    torch.testing.assert_close(layer(tokens, mask=mask), expected)


@pytest.mark.parametrize("name", sorted(BackboneConfig.get_known_choices()))
def test_a_backbone_shows_where_it_looks(name: str) -> None:
    """A token's attention sums to 1 and is 0 at hidden positions."""
    torch.manual_seed(0)
    seen = (True, False, True, True)
    config = BackboneConfig.get_choice_class(name)()
    if not config.build().shows_attention:
        with pytest.raises(NotImplementedError):
            config.build().attention(torch.randn(2, 4, config.build().width))
        return
    backbone = config.build(seen).eval()
    shown = backbone.attention(torch.randn(2, 4, backbone.width))
    assert shown.shape[1:2] + shown.shape[3:] == (2, 4, 4)
    torch.testing.assert_close(shown.sum(-1), torch.ones_like(shown[..., 0]))
    assert (shown[..., 1] == 0).all()
    assert (shown[..., 3, [0, 2, 3]] > 0).all()


def test_more_heads_see_more() -> None:
    """Four heads split the width; their output differs from that of one head and equal weights."""
    torch.manual_seed(0)
    one, four = (GPTConfig(heads=heads).build().eval() for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    tokens = torch.randn(2, 6, 128)
    assert (one(tokens)[0] - four(tokens)[0]).abs().max() > 1e-3


def test_a_dimension_that_never_varied_is_only_centred() -> None:
    encoder = VectorEncoder(3, 8)
    encoder.take(np.array([1.0, 5.0, 0.0]), np.array([2.0, 0.0, 1e-9]))
    torch.testing.assert_close(encoder.std, torch.tensor([2.0 + 1e-6, 1.0, 1.0]))
    assert encoder(torch.full((1, 1, 3), 9.0)).abs().max() < 50
