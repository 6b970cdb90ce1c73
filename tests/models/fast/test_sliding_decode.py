"""Tests of sliding-window decoding against lists that grow and are cut."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from decision_seq.evaluation.acting import slides
from decision_seq.models.backbones import GPT, GPTConfig
from decision_seq.models.fast.sliding_decode import (
    MAX_TOKENS,
    FoldedTransformer,
    SlidingDecoder,
    TokenRing,
)
from decision_seq.models.positions import WindowConfig
from decision_seq.policies import DecisionTransformer, DecisionTransformerConfig
from decision_seq.types import Spec

WIDTH = 12
# Lengths of the consecutive episodes of two rows.
LENGTHS = ((3, 1, 14, 2), (9, 4, 7))


def sliding(
    backbone: GPT, rows: int, steps: int, tokens: int, dtype: torch.dtype = torch.float32
) -> SlidingDecoder:
    """A window over the backbone with the weights of now."""
    blocks = list(backbone.blocks)
    return SlidingDecoder(FoldedTransformer(blocks, backbone.norm, rows, steps, tokens, dtype))


def lives(lengths: tuple[int, ...], steps: int, tokens: int) -> Iterator[tuple[bool, torch.Tensor]]:
    """Of every step, whether it begins an episode and its window's tokens [l, D], newest last."""
    for length in lengths:
        episode = torch.randn(length * tokens, WIDTH)
        for t in range(length):
            first = max(0, t - steps + 1)
            yield t == 0, episode[first * tokens : (t + 1) * tokens - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("steps", "tokens"), [(1, 2), (1, 3), (2, 3), (5, 2), (5, 3)])
@torch.no_grad()
def test_the_newest_token_is_told_the_same(
    steps: int, tokens: int, layers: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    backbone = GPTConfig(layers, width=WIDTH, activation="gelu").build().eval()
    for parameter in backbone.parameters():  # makes attention non-uniform
        parameter.normal_(std=0.3)
    slide = sliding(backbone, 2, steps, tokens, dtype)
    earlier = [torch.randn(1, WIDTH)] * 2
    rows = zip(*(lives(lengths, steps, tokens) for lengths in LENGTHS), strict=True)
    exact = 1e-4 if dtype == torch.float32 else 0.1
    for row in rows:
        begins, whole = zip(*row, strict=True)
        # The previous step's last token; at the beginning of an episode, an arbitrary one.
        news = [torch.cat([old, new])[-tokens:] for old, new in zip(earlier, whole, strict=True)]
        found = slide(torch.stack(news), torch.tensor(begins))
        expected = torch.stack([backbone(tokens[None])[0][0, -1] for tokens in whole])
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < exact * expected.abs().max()
        earlier = [tokens[-1:] for tokens in whole]


def test_nothing_moves() -> None:
    """Entries stay in their slot until the step K later overwrites it."""
    steps, tokens = 4, 3
    ring = TokenRing(2, steps, tokens)
    for t in range(20):
        ring.advance(torch.tensor([t in (0, 10), t == 0]))
        slots = [(t - 10 if t >= 10 else t) % steps, t % steps]
        places = [
            row * steps * tokens + (slot * tokens - 1 + i) % (steps * tokens)
            for row, slot in enumerate(slots)
            for i in range(tokens)
        ]
        assert ring.arrivals().tolist() == places
        assert ring.newest().tolist() == [places[tokens - 1], places[-1]]


def test_it_takes_the_weights_of_now() -> None:
    """A window that began before an update of the weights uses the previous weights."""
    torch.manual_seed(0)
    backbone = GPTConfig(2, width=WIDTH).build().eval()
    begun, tokens, begins = (
        sliding(backbone, 1, 3, 2),
        torch.randn(1, 2, WIDTH),
        torch.tensor([True]),
    )
    with torch.no_grad():
        before = sliding(backbone, 1, 3, 2)(tokens, begins)
        backbone.blocks[0].mlp[0].weight.mul_(2)
        for norm in (backbone.blocks[0].mlp_norm, backbone.norm):
            norm.weight.add_(1)
        backbone.blocks[0].attention.output.weight.mul_(2)
        after = sliding(backbone, 1, 3, 2)(tokens, begins)
        torch.testing.assert_close(begun(tokens, begins), before, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-4


def test_where_it_cannot_do_the_same_it_does_nothing() -> None:
    """Nor for a subclass, which may compute something else: types are compared exactly."""

    class OtherPolicy(DecisionTransformer):
        pass

    class OtherBackbone(GPT):
        pass

    spec, one_head = Spec((2,), 1, "continuous", 1, 1000), GPTConfig(2, width=WIDTH)
    config = DecisionTransformerConfig(3, one_head)
    assert slides(config.build(spec), 3)
    assert not slides(OtherPolicy(config, spec), 3)
    assert not slides(DecisionTransformerConfig(3, GPTConfig(2, 2, WIDTH)).build(spec), 3)
    assert not slides(replace(config, positions=WindowConfig()).build(spec), 3)
    for backbone in (OtherBackbone(one_head), one_head.build((True, False) * 5)):
        policy = config.build(spec)
        policy.backbone = backbone
        assert not slides(policy, 3)
    longest = MAX_TOKENS // 3
    assert slides(config.build(spec), longest)
    assert not slides(config.build(spec), longest + 1)
