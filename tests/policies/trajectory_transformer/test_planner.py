"""Tests of beam search against brute force, in a model small enough to enumerate."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from decision_seq.policies.trajectory_transformer.planner import (
    Drawing,
    Futures,
    PlannerConfig,
    TransitionLayout,
    filtered,
    plan,
)
from decision_seq.types import Sampling

BINS, WINDOW = 3, 10
LAYOUT = TransitionLayout(observation=1, action=1, stop=BINS)
TABLE = torch.randn(99_991, BINS + 1, generator=torch.Generator().manual_seed(7)) * 1.5
CENTERS = torch.tensor([0.0, 1.0, 5.0])
EVERY = PlannerConfig(horizon=3, beams=20_000, expand=1, context=2, keep=2, cdf_action=None)


def logits_after(tokens: Tensor) -> Tensor:
    """tokens [R, L] -> [R, BINS + 1], an arbitrary function of all tokens and their order."""
    key = torch.zeros(len(tokens), dtype=torch.int64)
    for token in tokens.T:
        key = (key * 31 + token + 1) % len(TABLE)
    logits = TABLE[key].clone()
    logits[:, BINS] -= 2  # stop rarely
    return logits


@dataclass
class ToyReader:
    rows: list[Tensor]  # a single entry, [R, L]

    def logits(self) -> Tensor:
        return logits_after(self.rows[0])

    def read(self, tokens: Tensor) -> None:
        self.rows[0] = torch.cat([self.rows[0], tokens[:, None]], 1)

    def fork(self, copies: int) -> None:
        self.rows[0] = self.rows[0].repeat_interleave(copies, 0)

    def keep(self, rows: Tensor) -> None:
        self.rows[0] = self.rows[0][rows]


@dataclass
class Toy:
    discount: float = 0.9

    def begin(self, tokens: Tensor, lengths: Tensor | None, shared: bool) -> ToyReader:
        assert tokens.shape[1] % 4 == (1 if shared else 0)
        if lengths is not None:
            assert (lengths == tokens.shape[1]).all()
        return ToyReader([tokens])

    def appraise(self, transitions: Tensor, reward: Tensor, value: Tensor):
        assert transitions.shape[1] == 3
        rewards = reward.softmax(-1)[:, :BINS] @ CENTERS
        return rewards, rewards + self.discount * (value.softmax(-1)[:, :BINS] @ CENTERS)


PREFIX = torch.tensor([[0, 1, 2, 1, 2, 0, 1, 1, 2], [1, 1, 0, 2, 0, 0, 0, 1, 0]])
LENGTHS = torch.tensor([9, 9])


def brute_force(
    prefix: Tensor, horizon: int, discount: float, window: int = WINDOW, keep: int = 2
) -> list[int]:
    """The best of all sequences of actions, each evaluated to its end.

    Observations, rewards and values are the most likely ones; the window drops old tokens.
    """
    choices = [range(BINS)] + [range(BINS + 1)] * (horizon - 1)  # the first action is no stop
    actions = torch.tensor(list(itertools.product(*choices)))
    read, total = prefix.expand(len(actions), -1), torch.zeros(len(actions))
    imagined = read[:, -1:]
    for depth in range(horizon):
        read = torch.cat([read, actions[:, depth : depth + 1]], 1)
        for weight in (discount**depth, discount ** (depth + 1)):  # for reward and value
            logits = logits_after(read)
            expected = weight * (logits.softmax(-1)[:, :BINS] @ CENTERS)
            if weight == discount**depth or depth == horizon - 1:
                total = total + expected
            read = torch.cat([read, logits.argmax(-1, keepdim=True)], 1)
        imagined = torch.cat([imagined, read[:, -3:]], 1)
        if read.shape[1] == window * 4:
            read = imagined[:, -keep * 4 :]
        read = torch.cat([read, logits_after(read).argmax(-1, keepdim=True)], 1)
        imagined = torch.cat([imagined, read[:, -1:]], 1)
    return actions[total.argmax()].tolist()


def sampling(count: int, temperature: float = 1.0) -> Sampling:
    return Sampling(torch.rand(count, generator=torch.Generator().manual_seed(0)), temperature)


@pytest.mark.parametrize("discount", [0.9, 0.3])
@pytest.mark.parametrize("window", [WINDOW, 4], ids=["it all fits", "the window is full twice"])
def test_wide_beams_find_what_brute_force_finds(discount: float, window: int) -> None:
    config = replace(EVERY, horizon=5 if window == 4 else 3)
    everything = sampling(2, temperature=1000.0)  # makes all actions equally likely
    found = plan(Toy(discount), PREFIX, LENGTHS, LAYOUT, config, window, discount, everything)
    for row, prefix in enumerate(PREFIX):
        assert found[row, :, 0].tolist() == brute_force(prefix, config.horizon, discount, window)


def test_each_environment_plans_alone() -> None:
    config = replace(EVERY, beams=4, expand=3)
    both = plan(Toy(), PREFIX, LENGTHS, LAYOUT, config, WINDOW, 0.9, sampling(2))
    draws = sampling(2).draws
    for row in range(2):
        alone = plan(
            Toy(),
            PREFIX[row : row + 1],
            LENGTHS[:1],
            LAYOUT,
            config,
            WINDOW,
            0.9,
            Sampling(draws[row : row + 1], 1.0),
        )
        assert (alone[0] == both[row]).all()


def test_narrow_beams_keep_the_best_of_what_was_drawn() -> None:
    """Two beams with three draws per step are recomputed row by row."""
    config = replace(EVERY, beams=2, expand=3, horizon=4)
    found = plan(Toy(), PREFIX[:1], LENGTHS[:1], LAYOUT, config, WINDOW, 0.9, sampling(1))
    drawing, beams = Drawing(sampling(1)), [(0.0, PREFIX[0])] * 2
    for depth in range(4):
        forked = [beam for beam in beams for _ in range(3)]
        read = torch.stack([tokens for _, tokens in forked])
        logits = logits_after(read)
        if depth == 0:
            logits[:, BINS] = -torch.inf
        read = torch.cat([read, drawing.tokens(logits, None, None)[:, None]], 1)
        scored = []
        for (gained, _), tokens in zip(forked, read, strict=True):
            reward = logits_after(tokens[None])
            tokens = torch.cat([tokens, reward.argmax(-1)])
            value = logits_after(tokens[None])
            rewards, onward = Toy().appraise(tokens[None, -3:], reward, value)
            for _ in range(2):  # value and next observation
                tokens = torch.cat([tokens, logits_after(tokens[None]).argmax(-1)])
            score = gained + 0.9**depth * float(onward)
            scored.append((score, gained + 0.9**depth * float(rewards), tokens))
        scored.sort(key=lambda entry: -entry[0])
        beams = [(gained, tokens) for _, gained, tokens in scored[:2]]
    assert found[0, :, 0].tolist() == beams[0][1][len(PREFIX[0]) :: 4].tolist()


def test_the_likeliest_beams_are_kept_token_by_token() -> None:
    config = replace(EVERY, horizon=3, beams=3, objective="likelihood")
    prefixes = torch.randint(BINS, (12, 9), generator=torch.Generator().manual_seed(3))
    lengths = torch.full((12,), 9)
    found = plan(Toy(), prefixes, lengths, LAYOUT, config, WINDOW, 0.9, None)
    narrow = replace(config, beams=1)
    assert (found != plan(Toy(), prefixes, lengths, LAYOUT, narrow, WINDOW, 0.9, None)).any()
    for row, prefix in enumerate(prefixes):
        beams = [(0.0, prefix)]
        for place in range(10):
            grown = []
            for score, tokens in beams:
                logits = logits_after(tokens[None])[0]
                if place == 0:
                    logits[BINS] = -torch.inf
                likely = logits.log_softmax(-1).tolist()
                for token, log in enumerate(likely):
                    grown.append((score + log, torch.cat([tokens, torch.tensor([token])])))
            beams = sorted(grown, key=lambda entry: -entry[0])[:3]
        assert found[row, :, 0].tolist() == beams[0][1][len(prefix) :: 4].tolist()


def test_the_likeliest_future_is_that_of_brute_force() -> None:
    config = replace(EVERY, horizon=2, beams=(BINS + 1) ** 6, objective="likelihood")
    found = plan(Toy(), PREFIX, LENGTHS, LAYOUT, config, WINDOW, 0.9, None)
    for row, prefix in enumerate(PREFIX):
        futures = torch.tensor(list(itertools.product(range(BINS + 1), repeat=6)))
        read, scores = prefix.expand(len(futures), -1), torch.zeros(len(futures))
        for place, tokens in enumerate(futures.T):
            logits = logits_after(read)
            if place == 0:
                logits[:, BINS] = -torch.inf
            scores += logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            read = torch.cat([read, tokens[:, None]], 1)
        best = futures[scores.argmax()]
        assert found[row, :, 0].tolist() == [best[0], best[4]]


def test_a_score_is_discounted_rewards_and_the_value(monkeypatch) -> None:
    """R = [1, 2] and then a value of 10: 1 + .99 * 2 + .9801 * 10 = 12.781."""
    scores, depths = [], []

    class Certain(Toy):
        def appraise(self, transitions, reward, value):
            depths.append(len(depths) + 1.0)
            rewards = torch.full((len(transitions),), depths[-1])
            return rewards, rewards + 0.99 * 10

    def best(beams, of):
        scores.append(of)
        return ranked(beams, of)

    ranked = Futures.best
    monkeypatch.setattr(Futures, "best", best)
    config = replace(EVERY, horizon=2, beams=2)
    plan(Certain(), PREFIX[:1], LENGTHS[:1], LAYOUT, config, WINDOW, 0.99, sampling(1))
    assert scores[-1].tolist() == pytest.approx([12.781] * 2, abs=1e-5)


P = torch.tensor([[0.05, 0.1, 0.15, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("cdf", "stay"),
    [(0.6, [3, 4]), (0.31, [3, 4]), (0.95, [4]), (0.05, [1, 2, 3, 4]), (None, [0, 1, 2, 3, 4])],
)
def test_the_unlikeliest_part_is_never_drawn(cdf: float | None, stay: list[int]) -> None:
    order = torch.tensor([2, 0, 4, 1, 3])
    kept = filtered(P.double()[:, order], cdf, None)
    assert sorted(order[kept[0].nonzero()[:, 0]].tolist()) == stay
    assert (kept[kept > 0] == P.double()[:, order][kept > 0]).all()


def test_the_likeliest_always_stays() -> None:
    assert (filtered(torch.full((1, 4), 0.25), 0.6, None) == 0.25).all()
    assert filtered(torch.tensor([[0.001, 0.999]]), 0.9999, None)[0, 1] > 0


@pytest.mark.parametrize(("k", "stay"), [(1, [4]), (2, [3, 4]), (9, [0, 1, 2, 3, 4])])
def test_only_the_k_likeliest_are_drawn(k: int, stay: list[int]) -> None:
    assert filtered(P, None, k)[0].nonzero()[:, 0].tolist() == stay


def test_tokens_are_drawn_as_they_are_likely() -> None:
    draws = torch.rand(8, generator=torch.Generator().manual_seed(1))
    drawing = Drawing(Sampling(draws, 1.0))
    logits = P.log().expand(8 * 5000, -1)
    counts = [torch.bincount(drawing.tokens(logits, None, None), minlength=5) for _ in range(3)]
    for count in counts:
        deviation = (P[0] * (1 - P[0]) * 40_000).sqrt()
        assert ((count - P[0] * 40_000).abs() < 5 * deviation).all()
    assert (counts[0] != counts[1]).any()  # every call draws new numbers
    again = Drawing(Sampling(draws, 1.0)).tokens(logits, None, None)
    assert (torch.bincount(again, minlength=5) == counts[0]).all()
    colder = Drawing(Sampling(draws, 0.25)).tokens(logits, None, None)
    expected = (P.double() ** 4 / (P.double() ** 4).sum())[0]
    assert ((torch.bincount(colder, minlength=5) / 40_000 - expected).abs() < 0.02).all()


def test_numbers_of_neighbouring_draws_are_independent() -> None:
    draws = torch.arange(4) / 2**24
    numbers = Drawing(Sampling(draws, 1.0))._numbers(4 * 50_000).view(4, -1)
    correlation = torch.corrcoef(torch.cat([numbers, numbers[:1].roll(1, 1)]))
    assert (correlation - torch.eye(5)).abs().max() < 0.02
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.005)
    assert numbers.min() >= 0
    assert numbers.max() < 1
