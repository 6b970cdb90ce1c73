"""Attention that is written out is torch's fused attention."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from decision_seq.models import layers
from decision_seq.models.fast.attention import MOST_KEYS, written_out_helps
from decision_seq.models.layers import CausalSelfAttention, Dropout, attend

MASKS = {
    "causal": None,
    "a rule": torch.ones(7, 7).tril().bool() & (torch.arange(7) != 3),
    "row by row": torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.7,
}
MASKS["row by row"][..., 0] = True


@pytest.fixture(params=[True, False], ids=["written out", "fused"])
def written_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    monkeypatch.setattr(layers, "written_out_helps", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_values_and_gradients_are_those_of_the_formula(
    written_out: bool, mask: torch.Tensor | None
) -> None:
    """softmax(Q K' / sqrt(D / H)) V in float64."""
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, 7, 4, requires_grad=True) for _ in range(3)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    allowed = torch.ones(7, 7).tril().bool() if mask is None else mask
    scores = (exact[0] @ exact[1].mT / 2).masked_fill(~allowed, -torch.inf)
    wanted = scores.softmax(-1) @ exact[2]
    found, upstream = attend(*leaves, mask, Dropout(0.0)), torch.randn(2, 3, 7, 4)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(found, leaves, upstream)
    for one, other in zip(gradients, torch.autograd.grad(wanted, exact, upstream), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_either_way(written_out: bool) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    value, drops = torch.ones(1, 1, 4, 8), Dropout(0.5).train()
    rows = [attend(query, key, value, None, drops)[0, 0, :, 0] for _ in range(4000)]
    torch.testing.assert_close(torch.stack(rows).mean(0), torch.ones(4), rtol=0, atol=0.1)


def test_it_is_chosen_where_it_helps() -> None:
    few, many = torch.randn(1, 1, 8, 4), torch.randn(1, 1, MOST_KEYS + 1, 4)
    low, long = few.bfloat16(), many.bfloat16()
    assert written_out_helps(few, few, drops=True)
    assert written_out_helps(many, many, drops=True)
    assert not written_out_helps(few, few, drops=False)
    assert not written_out_helps(low, low, drops=False)  # a gradient would need the whole map
    with torch.no_grad():
        assert not written_out_helps(few, few, drops=False)
        assert written_out_helps(low, low, drops=False)
        assert not written_out_helps(long, long, drops=False)
    elsewhere = few.to("meta")
    assert not written_out_helps(elsewhere, elsewhere, drops=True)


@torch.no_grad()
def test_the_layer_gives_the_same_in_bf16_either_way(written_out: bool) -> None:
    torch.manual_seed(0)
    layer, tokens = CausalSelfAttention(12, 3, 0.0).eval(), torch.randn(2, 7, 12)
    query, key, value = (layer.split(x) for x in layer.query_key_value(tokens).chunk(3, -1))
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    wanted = layer.output(mixed.transpose(1, 2).flatten(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(tokens)
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)
