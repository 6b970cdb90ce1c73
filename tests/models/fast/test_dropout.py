"""Dropout by fast masks is `F.dropout` with another generator."""

import pytest
import torch
import torch.nn.functional as F

from decision_seq.models.fast.dropout import dropout


@pytest.mark.parametrize("shape", [(7,), (3, 5, 11)])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_values_and_gradients_are_those_of_the_plain_form(
    shape: tuple[int, ...], probability: float
) -> None:
    """Under the same mask; the scale is exact up to the probability's 16 bits."""
    torch.manual_seed(0)
    inputs, upstream = torch.randn(shape, requires_grad=True), torch.randn(shape)
    torch.manual_seed(1)
    fast = dropout(inputs, probability)
    keep = fast != 0
    assert 0 < keep.sum() < keep.numel()
    plain = inputs * keep / (1 - probability)  # as F.dropout computes it
    torch.testing.assert_close(fast, plain, rtol=2**-15, atol=0)
    (gradient,) = torch.autograd.grad(fast, inputs, upstream)
    (wanted,) = torch.autograd.grad(plain, inputs, upstream)
    torch.testing.assert_close(gradient, wanted, rtol=2**-15, atol=0)


def test_its_moments_are_those_of_the_plain_form() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1_000_003)
    fast, plain = dropout(ones, 0.3), F.dropout(ones, 0.3)
    assert fast.mean().item() == pytest.approx(plain.mean().item(), abs=0.005)
    assert fast.var().item() == pytest.approx(plain.var().item(), abs=0.005)


def test_elsewhere_it_is_the_plain_form() -> None:
    inputs = torch.ones(8, device="meta")
    assert dropout(inputs, 0.5).device.type == "meta"
