"""Tests of the key-value cache: reading in pieces equals reading the whole sequence."""

import pytest
import torch
from torch import Tensor

from decision_seq.models.backbones import GPT, GPTConfig

WIDTH = 32
UNSEEN = tuple(place % 4 != 3 for place in range(48))


@pytest.fixture(params=[None, UNSEEN], ids=["all seen", "every fourth unseen"])
def gpt(request) -> GPT:
    torch.manual_seed(0)
    backbone = GPTConfig(layers=3, heads=2, width=WIDTH).build(request.param).eval()
    for weight in backbone.parameters():  # makes attention far from uniform
        torch.nn.init.normal_(weight, std=0.3)
    return backbone


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 48, [13, 1, 1, 20, 13], [48], [3, 4, 41]])
def test_pieces_add_up(gpt: GPT, pieces: list[int]) -> None:
    tokens = torch.randn(3, 48, WIDTH)
    cache = gpt.begin(3)
    read = [gpt.extend(piece, cache) for piece in tokens.split(pieces, 1)]
    close(torch.cat(read, 1), gpt(tokens)[0])
    assert cache.count == 48


@torch.no_grad()
def test_what_is_unseen_is_seen_by_nobody() -> None:
    torch.manual_seed(0)
    gpt = GPTConfig(layers=3, heads=2, width=WIDTH).build(UNSEEN).eval()
    tokens = torch.randn(2, 48, WIDTH)
    other = tokens.clone()
    other[:, 3::4] = torch.randn(2, 12, WIDTH)
    here, there = gpt(tokens)[0], gpt(other)[0]
    close(here.unflatten(1, (12, 4))[:, :, :3], there.unflatten(1, (12, 4))[:, :, :3])
    differ = (here != there).any(-1).unflatten(1, (12, 4)).all(0).all(0)
    assert differ.tolist() == [False, False, False, True]


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_rows_fork_and_are_chosen(gpt: GPT, shared: bool) -> None:
    """In random searches, every fork and choice equals reading each row as a whole."""
    torch.manual_seed(1)
    environments, cache = 2, gpt.begin(2, shared)
    read = torch.randn(environments, 6, WIDTH)
    gpt.extend(read, cache)
    for copies, left in ((5, 3), (2, 4), (3, 2), (2, 2)):
        cache.fork(copies)
        read = read.repeat_interleave(copies, 0)
        for _ in range(2):
            read = torch.cat([read, torch.randn(len(read), 1, WIDTH)], 1)
            close(gpt.extend(read[:, -1:], cache)[:, 0], gpt(read)[0][:, -1])
        count = len(read) // environments
        rows = torch.cat([torch.randint(count, (left,)) + e * count for e in range(environments)])
        if not shared:
            rows = rows[torch.randperm(len(rows))]
        cache.keep(rows)
        read = torch.cat([read[rows], torch.randn(len(rows), 3, WIDTH)], 1)
        close(gpt.extend(read[:, -3:], cache), gpt(read)[0][:, -3:])
        assert len(cache.levels) == 1 + shared  # merged


@torch.no_grad()
def test_prefixes_may_differ_in_length(gpt: GPT) -> None:
    """Some rows' prefixes are shorter by whole groups of four tokens, like transitions."""
    torch.manual_seed(2)
    lengths = torch.tensor([2, 10, 6])
    prefix, following = torch.randn(3, 10, WIDTH), torch.randn(6, 7, WIDTH)
    cache = gpt.begin(3)
    gpt.extend(prefix, cache, lengths)
    cache.fork(2)
    for step in range(7):
        found = gpt.extend(following[:, step : step + 1], cache)[:, 0]
        for row, length in enumerate(lengths.repeat_interleave(2).tolist()):
            whole = torch.cat([prefix[row // 2, :length], following[row, : step + 1]])
            close(found[row], gpt(whole[None])[0][0, -1])
