"""Linear layers by oneDNN are those of torch, and their FLOPs are counted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from decision_seq.models.fast import linear as fast
from decision_seq.models.layers import Linear

SHAPES = [((3, 59, 24), 40), ((130, 8), 3), ((64, 1), 16)]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where oneDNN is the quicker one."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_values_and_gradients(
    shape: tuple[int, ...], outputs: int, biased: bool, activation: str
) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(shape), torch.randn(outputs, shape[-1])
    leaves = [inputs, weight, *([torch.randn(outputs)] if biased else [])]
    upstream = torch.randn(*shape[:-1], outputs)

    def run(multiply, dtype: torch.dtype) -> list[torch.Tensor]:
        own = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
        result = multiply(own[0], own[1], own[2] if biased else None)
        return [result.detach(), *torch.autograd.grad(result, own, upstream.to(dtype))]

    modules = {"none": nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU()}

    def ours(*leaves: torch.Tensor | None) -> torch.Tensor:
        return fast.linear(*leaves, modules[activation])

    def exactly(*leaves: torch.Tensor | None) -> torch.Tensor:
        after = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}[activation]
        return after(F.linear(*leaves))

    found, wanted = run(ours, torch.float32), run(exactly, torch.float64)
    with torch.no_grad():  # another way to the same
        found.append(ours(*[*leaves, None][:3]))
    for value, exact in zip(found, [*wanted, wanted[0]], strict=True):
        assert value.shape == exact.shape
        assert (value - exact).abs().max() < 1e-5 * max(1.0, float(exact.abs().max()))


def test_it_is_taken_where_it_helps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(8, 16)

    def taken(rows: int, dtype: torch.dtype = torch.float32) -> bool:
        with FlopCounterMode(display=False, custom_mapping=fast.flop_formulas()) as counter:
            layer.to(dtype)(torch.randn(rows, 8, dtype=dtype))
        assert counter.get_total_flops() == 2 * rows * 8 * 16
        names = [str(name) for name in counter.get_flop_counts()["Global"]]
        return names == ["mkldnn._linear_pointwise"]

    assert taken(64)
    assert not taken(63)
    assert not taken(64, torch.float64)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(64, 8)).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not taken(64)


def test_what_needs_no_gradient_costs_nothing() -> None:
    layer, inputs = Linear(8, 16), torch.randn(64, 8)

    def operations(inputs: torch.Tensor) -> int:
        with FlopCounterMode(display=False, custom_mapping=fast.flop_formulas()) as counter:
            layer(inputs).sum().backward()
        return counter.get_total_flops()

    once = 2 * 64 * 8 * 16
    assert operations(inputs) == 2 * once  # there, and back to the weight
    assert operations(inputs.requires_grad_()) == 3 * once
    layer.weight.requires_grad_(False)
    assert operations(inputs) == 2 * once


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.GELU()], ids=str)
@torch.no_grad()
def test_a_lowered_copy_multiplies_as_autocast_does(activation: nn.Module) -> None:
    """Once the weights are lowered; the copy alone is."""
    torch.manual_seed(0)
    layer, inputs = Linear(24, 40), torch.randn(3, 59, 24)
    copy = fast.lowered(layer, torch.bfloat16)
    assert layer.weight.dtype == torch.float32
    assert copy.weight.dtype == copy.bias.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        wanted = activation(F.linear(inputs, layer.weight, layer.bias))
        found = fast.linear(inputs, copy.weight, copy.bias, activation)
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)  # rounded once, or twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [8, 64])
@torch.no_grad()
def test_weights_of_either_type_give_the_plain_form(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(rows, 24), torch.randn(40, 24), torch.randn(40)
    wanted = F.gelu(F.linear(inputs, weight, bias))
    inputs, weight, bias = inputs.to(dtype), weight.to(dtype), bias.to(dtype)
    by_onednn = rows == 64 if dtype == torch.float32 else fast._multiplies_bf16()
    assert fast.onednn_helps(inputs, weight) == by_onednn
    found = fast.linear(inputs, weight, bias, nn.GELU())
    assert found.dtype == dtype
    off = (found - wanted).abs().max() / wanted.abs().max()
    assert off < (1e-5 if dtype == torch.float32 else 0.02)


def test_bf16_weights_are_multiplied_by_onednn_without_a_gradient_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "_multiplies_bf16", lambda: True)
    inputs, weight = torch.randn(8, 24), torch.randn(40, 24).bfloat16()
    assert not fast.onednn_helps(inputs.bfloat16(), weight)
    with torch.no_grad():
        assert fast.onednn_helps(inputs.bfloat16(), weight)
        assert not fast.onednn_helps(inputs, weight)  # torch refuses the two types
        with torch.autocast("cpu", torch.bfloat16):
            assert fast.onednn_helps(inputs, weight)
            assert not fast.onednn_helps(inputs, weight.float())  # which autocast would lower
