"""Every encoder of the registry, with each kind of observation that its configuration names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from decision_seq.datasets.store import EpisodeStore
from decision_seq.models.encoders import Encoder, EncoderConfig, VectorEncoder
from decision_seq.types import UserError

SHAPES = {"vector": (11,), "frames": (4, 36, 40)}
ROWS, STEPS, WIDTH = 2, 5, 12


def _cases() -> list[tuple[str, str]]:
    known = sorted(EncoderConfig.get_known_choices().items())
    return [(name, kind) for name, config in known for kind in config.observations]


@pytest.fixture(params=_cases(), ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


def build(name: str, kind: str) -> Encoder:
    torch.manual_seed(0)
    return EncoderConfig.get_choice_class(name)().build(SHAPES[kind], WIDTH)


def observed(kind: str) -> Tensor:
    """Observations of a window, as a `Batch` holds them."""
    draw = torch.Generator().manual_seed(1)
    if kind == "vector":
        return torch.randn(ROWS, STEPS, *SHAPES[kind], generator=draw) * 3 + 2
    stack, *size = SHAPES[kind]
    return torch.randint(0, 256, (ROWS, stack - 1 + STEPS, *size), generator=draw).byte()


def one_step(kind: str, observations: Tensor, step: int) -> Tensor:
    width = 1 if kind == "vector" else SHAPES[kind][0]
    return observations[:, step : step + width]


@pytest.fixture
def data(
    make_store: Callable[..., EpisodeStore], make_frame_store: Callable[..., EpisodeStore]
) -> Callable[[str], EpisodeStore]:
    stores = {
        "vector": make_store,
        "frames": lambda: make_frame_store((20, 3), size=SHAPES["frames"][1:]),
    }
    return lambda kind: stores[kind]()


@torch.no_grad()
def check_each_step_by_itself(name: str, kind: str) -> None:
    """A step's token is that of its observation alone: no other step changes it."""
    encoder, observations = build(name, kind), observed(kind)
    whole = encoder(observations)
    assert whole.shape == (ROWS, STEPS, WIDTH)
    assert whole.dtype == torch.float32
    assert whole.isfinite().all()
    for step in range(STEPS):
        alone = encoder(one_step(kind, observations, step))
        torch.testing.assert_close(alone[:, 0], whole[:, step], rtol=1e-4, atol=1e-5)


def test_each_step_is_encoded_by_itself(case: tuple[str, str]) -> None:
    check_each_step_by_itself(*case)


def test_a_step_has_an_effect_and_inputs_are_not_modified(case: tuple[str, str]) -> None:
    encoder, observations = build(*case), observed(case[1])
    before = observations.clone()
    whole = encoder(observations)
    assert torch.equal(observations, before)
    assert (whole[:, 1:] != whole[:, :-1]).any(-1).all()
    whole.square().sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_fit_changes_buffers_only(
    case: tuple[str, str], data: Callable[[str], EpisodeStore]
) -> None:
    """What is fitted travels with the weights, and a second fit changes nothing."""
    encoder, store = build(*case), data(case[1])
    before = {name: weight.detach().clone() for name, weight in encoder.named_parameters()}
    encoder.fit(store)
    assert all(torch.equal(weight, before[n]) for n, weight in encoder.named_parameters())
    once = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.fit(store)
    assert all(torch.equal(tensor, once[n]) for n, tensor in encoder.state_dict().items())
    other = build(*case)
    other.load_state_dict(once)
    assert torch.equal(other(observed(case[1])), encoder(observed(case[1])))


@pytest.mark.parametrize("name", sorted(EncoderConfig.get_known_choices()))
def test_other_kinds_of_observation_are_refused(name: str) -> None:
    config = EncoderConfig.get_choice_class(name)
    assert config.observations
    assert set(config.observations) <= set(SHAPES)
    for kind in set(SHAPES) - set(config.observations):
        with pytest.raises(UserError, match=f"the encoder `{name}` needs {config.observations[0]}"):
            build(name, kind)
    with pytest.raises(UserError, match=f"the encoder `{name}` needs"):
        config().build((2, 3), WIDTH)


class Blurred(VectorEncoder):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations - observations.mean(1, keepdim=True))


@dataclass(frozen=True)
class BlurredConfig(EncoderConfig):
    """An encoder that mixes the steps of a window, which none may."""

    observations: ClassVar[tuple[str, ...]] = ("vector",)

    def build(self, shape: tuple[int, ...], width: int) -> Blurred:
        self.check(shape)
        return Blurred(shape[0], width)


def test_an_encoder_that_mixes_steps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EncoderConfig._choice_registry, "blurred", BlurredConfig)
    assert ("blurred", "vector") in _cases()
    with pytest.raises(AssertionError):
        check_each_step_by_itself("blurred", "vector")
