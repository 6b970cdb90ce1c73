"""Windows that slide, against lists that grow and are cut."""

from collections.abc import Iterator

import pytest
import torch

from decision_seq.models.backbones import GPTConfig
from decision_seq.models.fast.sliding_decode import MAX_TOKENS, TokenRing

WIDTH = 12
# How long the episodes of two rows are, one after the other.
LENGTHS = ((3, 1, 14, 2), (9, 4, 7))


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
    for parameter in backbone.parameters():  # so that heads look at some more than at others
        parameter.normal_(std=0.3)
    (slide,), earlier = backbone.slide(1, 2, steps, tokens, dtype), [torch.randn(1, WIDTH)] * 2
    rows = zip(*(lives(lengths, steps, tokens) for lengths in LENGTHS), strict=True)
    exact = 1e-4 if dtype == torch.float32 else 0.1
    for row in rows:
        begins, whole = zip(*row, strict=True)
        # The former step's last token; of a beginning, something that was there before.
        news = [torch.cat([old, new])[-tokens:] for old, new in zip(earlier, whole, strict=True)]
        found = slide(torch.stack(news), torch.tensor(begins))
        expected = torch.stack([backbone(tokens[None])[0, -1] for tokens in whole])
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < exact * expected.abs().max()
        earlier = [tokens[-1:] for tokens in whole]


def test_nothing_moves() -> None:
    """What has come stays, until its slot is taken by the step K later."""
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
    """A window that was begun before an update of the weights acts by the former ones."""
    torch.manual_seed(0)
    backbone = GPTConfig(2, width=WIDTH).build().eval()
    (begun,), tokens, begins = (
        backbone.slide(1, 1, 3, 2),
        torch.randn(1, 2, WIDTH),
        torch.tensor([True]),
    )
    with torch.no_grad():
        before = backbone.slide(1, 1, 3, 2)[0](tokens, begins)
        backbone.blocks[0].mlp[0].weight.mul_(2)
        for norm in (backbone.blocks[0].mlp_norm, backbone.norm):
            norm.weight.add_(1)
        backbone.blocks[0].attention.output.weight.mul_(2)
        after = backbone.slide(1, 1, 3, 2)[0](tokens, begins)
        torch.testing.assert_close(begun(tokens, begins), before, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-4


def test_where_it_cannot_do_the_same_it_does_nothing() -> None:
    heads = GPTConfig(2, heads=2, width=WIDTH).build()
    ruled = GPTConfig(2, width=WIDTH).build((True, False))
    plain = GPTConfig(2, width=WIDTH).build()
    assert heads.slide(1, 1, 3, 2) is None
    assert ruled.slide(1, 1, 3, 2) is None
    assert plain.slide(1, 1, MAX_TOKENS, 1) is not None
    assert plain.slide(1, 1, MAX_TOKENS // 2 + 1, 2) is None
