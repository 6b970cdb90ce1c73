"""Counter-based random numbers against SplitMix64 in Python's integers."""

import torch

from decision_seq.models.fast.counter_rng import mix, uniforms

WORD = 2**64


def plainly(word: int) -> int:
    """Steele et al. (2014), figure 17, without the increment."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


WORDS = torch.tensor([0, 1, -1, 2**62, -(2**63), 2**63 - 1, 0x123456789ABCDEF])


def test_mixing_is_that_of_splitmix64() -> None:
    assert [word % WORD for word in mix(WORDS).tolist()] == [
        plainly(word % WORD) for word in WORDS.tolist()
    ]


def test_uniforms_are_the_highest_24_bits() -> None:
    found, stride = uniforms(WORDS, torch.arange(5)), 0x9E3779B97F4A7C15
    assert found.shape == (7, 5)
    for key, row in zip(WORDS.tolist(), found.tolist(), strict=True):
        assert row == [(plainly((key + i * stride) % WORD) >> 40) / 2**24 for i in range(5)]
        assert all(0 <= number < 1 for number in row)
