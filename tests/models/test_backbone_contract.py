"""Every backbone of the registry: what its class attributes promise holds."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decision_seq.models.backbones import Backbone, BackboneConfig, LSTMConfig, Searchable, State
from decision_seq.models.backbones.base import Seen, reset_rows, unroll
from decision_seq.models.backbones.lstm import LSTM
from decision_seq.models.layers import Read, select
from decision_seq.types import UserError

NAMES = sorted(BackboneConfig.get_known_choices())
EPISODE, SEGMENT = 300, 20
SEEN = (True, False, True, True, False, True)
READS: dict[str, Read] = {
    "slice": slice(1, None, 3),
    "positions": torch.tensor([0, 4, 5, 10]),
    "row by row": torch.tensor([[3, 1], [10, 0], [2, 2], [9, 10]]),
}


def build(name: str, seen: Seen | None = None) -> Backbone:
    torch.manual_seed(0)
    return BackboneConfig.get_choice_class(name)().build(seen).eval()


def drawn(backbone: Backbone, rows: int, length: int, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, backbone.width, generator=draw)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_backbone_is_causal(name: str) -> None:
    """Invariant 1, with fresh noise: a constant would be cancelled by the LayerNorms."""
    backbone = build(name)
    tokens = drawn(backbone, 3, 12)
    before, _ = backbone(tokens)
    assert before.shape == tokens.shape
    for position in range(1, 12):
        noisy = tokens.clone()
        noisy[:, position:] = drawn(backbone, 3, 12 - position, 2) * 10
        after, _ = backbone(noisy)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        assert (after[:, position:] != before[:, position:]).any(-1).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@torch.no_grad()
def test_reading_some_positions_computes_the_same_numbers(name: str, read: Read) -> None:
    backbone = build(name)
    tokens = drawn(backbone, 4, 11)
    whole, part = backbone(tokens)[0], backbone(tokens, read)[0]
    torch.testing.assert_close(part, select(whole, read), rtol=1e-5, atol=1e-6)


def in_pieces(backbone: Backbone, pieces: Iterable[Tensor]) -> Tensor:
    """Hidden states of all pieces, with the state carried from one to the next."""
    state, read = None, []
    for piece in pieces:
        hidden, state = backbone(piece, None, state)
        read.append(hidden)
    return torch.cat(read, 1)


@torch.no_grad()
def check_memory(name: str) -> None:
    """What is carried follows from `memory`: nothing, or an episode's hidden states are the same
    at once, in segments and token by token."""
    backbone = build(name)
    tokens = drawn(backbone, 2, EPISODE)
    if backbone.memory == "window":
        window = tokens[:, :SEGMENT]
        first, state = backbone(window)
        assert state is None
        assert backbone.initial_state(2) is None
        backbone(tokens[:, SEGMENT : 2 * SEGMENT])  # another window leaves nothing behind
        assert torch.equal(backbone(window)[0], first)
        return
    assert backbone.memory == "episode"
    whole, last = backbone(tokens)
    given, _ = backbone(tokens, None, backbone.initial_state(2))
    assert torch.equal(given, whole)
    assert last is not None
    assert all(len(value) == 2 for value in last.values())
    close(in_pieces(backbone, tokens.split(SEGMENT, 1)), whole)
    close(in_pieces(backbone, tokens.split(1, 1)), whole)
    alone, _ = backbone(tokens[:, SEGMENT:])  # the start has an effect on what follows
    assert (alone[:, 0] - whole[:, SEGMENT]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_the_same_however_it_is_cut(name: str) -> None:
    check_memory(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_reset_keeps_nothing(name: str) -> None:
    """Even NaN in the former state reaches neither its hidden states nor its gradient."""
    backbone = build(name)
    tokens = drawn(backbone, 3, 6)
    _, state = backbone(drawn(backbone, 3, 4, seed=3))
    if state is None:
        assert backbone.memory == "window"
        return
    begins = torch.tensor([False, True, False])
    spoilt = {n: value.detach().clone() for n, value in state.items()}
    for value in spoilt.values():
        value[1] = torch.nan
    initial = backbone.initial_state(3)
    fresh, _ = backbone(tokens[1:2])
    going_on, _ = backbone(tokens, None, state)
    for found, after in (
        backbone(tokens, None, reset_rows(spoilt, begins, initial)),
        unroll(backbone, tokens, spoilt, begins, burn_in=2, carried_at=4),
    ):
        close(found[1:2], fresh)
        close(found[[0, 2]], going_on[[0, 2]])
        assert all(value.isfinite().all() for value in after.values())
        backbone.zero_grad()
        found.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_hidden_positions_reach_no_other(name: str) -> None:
    if not build(name).hides:
        with pytest.raises(UserError, match=name):
            build(name, SEEN)
        return
    backbone = build(name, SEEN)
    tokens = drawn(backbone, 2, len(SEEN))
    other = tokens.clone()
    hidden = ~torch.tensor(SEEN)
    other[:, hidden] = drawn(backbone, 2, int(hidden.sum()), seed=2)
    here, there = backbone(tokens)[0], backbone(other)[0]
    close(here[:, ~hidden], there[:, ~hidden])
    assert (here != there)[:, hidden].any(-1).all()
    everything = build(name)
    assert (everything(tokens)[0] != everything(other)[0])[:, -1].any()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_backbone_shows_where_it_looks(name: str) -> None:
    """A token's attention sums to 1 and is 0 at later and at hidden positions."""
    plain = build(name)
    if not plain.shows_attention:
        with pytest.raises(NotImplementedError):
            plain.attention(drawn(plain, 2, len(SEEN)))
        return
    for rule in (None, SEEN) if plain.hides else (None,):
        backbone = build(name, rule)
        shown = backbone.attention(drawn(backbone, 2, len(SEEN)))
        assert shown.shape[1:2] + shown.shape[3:] == (2, len(SEEN), len(SEEN))
        torch.testing.assert_close(shown.sum(-1), torch.ones_like(shown[..., 0]))
        assert (shown.triu(1) == 0).all()
        visible = torch.tensor(rule or [True] * len(SEEN))
        assert (shown[..., ~visible] == 0).all()
        assert (shown[..., -1, visible] > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [[1] * 16, [5, 1, 1, 9], [16]], ids=str)
@torch.no_grad()
def test_a_searchable_backbone_reads_piece_by_piece(name: str, pieces: list[int]) -> None:
    backbone = build(name)
    if not isinstance(backbone, Searchable):
        return
    tokens = drawn(backbone, 3, 16)
    cache = backbone.begin(3)
    read = [backbone.extend(piece, cache) for piece in tokens.split(pieces, 1)]
    close(torch.cat(read, 1), backbone(tokens)[0])


class Forgetful(LSTM):
    def forward(
        self, tokens: Tensor, read: Read | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        return super().forward(tokens, read)


@dataclass(frozen=True)
class ForgetfulConfig(LSTMConfig):
    """A backbone that says that it remembers the episode, and takes no notice of the state."""

    def build(self, seen: Seen | None = None) -> Forgetful:
        return Forgetful(self)


def test_a_backbone_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BackboneConfig._choice_registry, "forgetful", ForgetfulConfig)
    assert "forgetful" in BackboneConfig.get_known_choices()
    with pytest.raises(AssertionError):
        check_memory("forgetful")
