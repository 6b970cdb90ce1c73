"""Every policy of the registry, over every backbone, conditioned and not, with both kinds of
action, and those that see frames: invariants 1, 2, 3 and 8.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from decision_seq.data.conditioning import Conditioning, ReturnToGo, Unconditioned, label
from decision_seq.data.outcome import GoalOutcome, Outcome
from decision_seq.data.sampler import WindowGatherer
from decision_seq.data.store import EpisodeStore
from decision_seq.models.backbones import BackboneConfig
from decision_seq.models.critics import IQLConfig
from decision_seq.models.encoders import ImageConfig
from decision_seq.models.positions import WindowConfig
from decision_seq.planner import PlannerConfig
from decision_seq.policies import Policy, PolicyConfig, TrajectoryTransformer
from decision_seq.train import masked_mean
from decision_seq.types import Batch, Spec
from tests.conftest import OBSERVATION, lived

LENGTH = 8
CHOICES = 4  # of a discrete action
CONDITIONINGS: dict[str, Conditioning] = {
    "return": ReturnToGo(10.0),
    "none": Unconditioned(),
    "outcome": Outcome(),
    "goal": GoalOutcome(goal=(0.0,) * OBSERVATION),
}
# The conditionings that suit a policy, and what else it is built with to be quick here.
SUITED = {"tt": ("outcome", "goal"), "bdt": ("none",), "return_predictor": ("outcome",)}
SIMPLE = {"tt"}  # of actions that are no choices
VECTORS = {"bdt"}  # not of frames
SLIDING = {"gpt"}  # backbones that carry windows along episodes
CARRYING = {"dt", "bdt", "return_predictor"}  # where tokens know their time by themselves
BUILT: dict[str, dict[str, Any]] = {
    "tt": {"bins": 8, "planner": PlannerConfig(horizon=1, beams=2, context=3, keep=2)},
    "return_predictor": {"estimates": "return"},
}
FRAMES = (4, 36, 36)  # of a policy with an image encoder, whose actions are choices
DISCRETE = ("discrete", "frames")  # the kinds of case whose actions are choices
# What a policy leaves out of account by design. Any other must see it.
IGNORED = {"bc": {"actions", "conditions"}}


def _cases() -> list[tuple[str, str | None, str, str]]:
    cases = []
    for name in sorted(PolicyConfig.get_known_choices()):
        keys = {field.name for field in fields(PolicyConfig.get_choice_class(name))}
        backbones = sorted(BackboneConfig.get_known_choices()) if "backbone" in keys else [None]
        for backbone in backbones:
            for conditioning in SUITED.get(name, ("return", "none")):
                kinds = ["continuous", *([] if name in SIMPLE else ["discrete"])]
                kinds += ["frames"] if "encoder" in keys and name not in VECTORS else []
                kinds += ["stochastic"] if "head" in keys else []
                kinds += ["critic"] if "critic" in keys and conditioning == "outcome" else []
                cases += [(name, backbone, conditioning, kind) for kind in kinds]
    return cases


@pytest.fixture(params=_cases(), ids=lambda case: "-".join(filter(None, case)))
def case(request: pytest.FixtureRequest) -> tuple[str, str | None, str, str]:
    return request.param


@pytest.fixture
def ignored(case: tuple[str, str | None, str, str]) -> set[str]:
    name, _, conditioning, _ = case
    blind = conditioning == "none" and name != "bdt"  # which makes its own
    return IGNORED.get(name, set()) | ({"conditions"} if blind else set())


@pytest.fixture
def policy(case: tuple[str, str | None, str, str], store: EpisodeStore, spec: Spec) -> Policy:
    name, backbone, conditioning, kind = case
    torch.manual_seed(0)
    chosen = BUILT.get(name, {})
    if backbone:
        chosen = chosen | {"backbone": BackboneConfig.get_choice_class(backbone)()}
    asked = replace(spec, condition_size=CONDITIONINGS[conditioning].size)
    if kind == "critic":
        chosen = chosen | {"critic": IQLConfig(width=16)}
    if kind == "stochastic":
        chosen = chosen | {"head": "stochastic"}
    if kind in DISCRETE:
        asked = replace(asked, action_kind="discrete", action_size=CHOICES)
    if kind == "frames":
        chosen |= {"encoder": ImageConfig((4, 4, 4)), "positions": WindowConfig(), "squash": True}
        asked = replace(asked, observation_shape=FRAMES)
    made = PolicyConfig.get_choice_class(name)(context_length=LENGTH, **chosen).build(asked)
    if kind == "frames":
        for table in (made.positions.place, made.positions.begin.weight):  # they begin at zero
            torch.nn.init.normal_(table, std=0.1)
    made.fit(store, label(store, CONDITIONINGS[conditioning]))
    return made.eval()


@pytest.fixture
def gathered(case: tuple[str, str | None, str, str], policy: Policy, store: EpisodeStore) -> Batch:
    conditioning, kind = case[2:]
    labels = label(store, CONDITIONINGS[conditioning])
    gatherer = WindowGatherer(store, labels, LENGTH, 1000, policy.futures)
    # The first of an episode, some in its middle, and short ones at its end (rows 28, 36, 88).
    found = gatherer.gather(torch.tensor([0, 3, 28, 36, 60, 88, 92]).numpy()).tensors()
    draw = torch.Generator().manual_seed(1)
    if kind in DISCRETE:
        found = replace(found, actions=torch.randint(0, CHOICES, found.mask.shape, generator=draw))
    if kind == "frames":
        shape = (len(found.mask), FRAMES[0] - 1 + LENGTH, *FRAMES[1:])
        found = replace(found, observations=torch.randint(0, 256, shape, generator=draw).byte())
    return found


@pytest.fixture
def batch(policy: Policy, gathered: Batch) -> Batch:
    """With its conditions, of which hindsight is no part of what may not be seen."""
    with torch.no_grad():
        return policy.hindsight(gathered)


def before_window(batch: Batch, name: str) -> int:
    """How many frames precede the window's first step."""
    return getattr(batch, name).shape[1] - batch.mask.shape[1]


def noise(name: str, array: torch.Tensor, size: float) -> torch.Tensor:
    """Other contents for a field, far from what the data hold, of the kind that it takes."""
    if name == "timesteps":
        return torch.randint(0, 900, array.shape)
    if array.dtype == torch.uint8:
        return torch.randint(0, 256, array.shape).byte()
    if not array.is_floating_point():  # a discrete action: another choice
        return (array + torch.randint(1, CHOICES, array.shape)) % CHOICES
    return torch.randn_like(array) * size


def predictions(policy: Policy, batch: Batch, steps: int = LENGTH) -> torch.Tensor:
    """The action of every window's first steps, [B, steps, ...]: each the newest in turn."""
    columns = []
    for step in range(steps):
        mask = torch.arange(batch.mask.shape[1]) <= step
        columns.append(policy.act(replace(batch, mask=mask.expand_as(batch.mask)))[0])
    return torch.stack(columns, 1)


def losses(policy: Policy, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name -> (values, weights), with the same draws for both, as an update hands them in."""
    rng = torch.Generator()
    weights = policy.weights(batch, rng.manual_seed(0))
    values = policy(batch, rng.manual_seed(0))
    assert values.keys() == weights.keys()
    return {name: (values[name], weights[name]) for name in weights}


def values(policy: Policy, batch: Batch) -> torch.Tensor:
    """The losses of every step added up, [B, T]."""
    return torch.stack([values for values, _ in losses(policy, batch).values()]).sum(0)


def noisy_from(batch: Batch, step: int, fields: tuple[str, ...]) -> Batch:
    changed = {}
    for name in fields:
        array = getattr(batch, name).clone()
        first = step + before_window(batch, name)
        array[:, first:] = noise(name, array[:, first:], 20)
        changed[name] = array
    return replace(batch, **changed)


INPUTS = ("observations", "actions", "rewards", "conditions", "timesteps")


@torch.no_grad()
def test_nothing_sees_the_future(policy: Policy, batch: Batch) -> None:
    """Invariant 1: noise in step t + 1 and later changes no loss and no action up to t.

    But for a critic's, which learns what an action led to from the observation that followed.
    """
    before, acted = losses(policy, batch), predictions(policy, batch)
    for step in range(1, LENGTH):
        noisy = noisy_from(batch, step, INPUTS)
        after = losses(policy, noisy)
        for name in before.keys() - {"critic_q"}:
            torch.testing.assert_close(
                after[name][0][:, :step], before[name][0][:, :step], rtol=1e-5, atol=1e-6
            )
        torch.testing.assert_close(predictions(policy, noisy, step), acted[:, :step])


@torch.no_grad()
def test_an_action_does_not_see_itself(policy: Policy, batch: Batch, ignored: set[str]) -> None:
    """Invariant 2: noise in action t leaves the prediction of action t alone, and moves t + 1's."""
    before = predictions(policy, batch)
    errors = values(policy, batch)
    for step in range(LENGTH - 1):
        actions = batch.actions.clone()
        actions[:, step] = noise("actions", actions[:, step], 1)
        other = replace(batch, actions=actions)
        after = predictions(policy, other, step + 1)
        torch.testing.assert_close(after, before[:, : step + 1])
        moved = (values(policy, other) - errors)[:, step + 1].abs().max()
        assert moved <= 1e-6 if "actions" in ignored else moved > 1e-7


@torch.no_grad()
def test_what_a_policy_is_given_is_seen(policy: Policy, batch: Batch, ignored: set[str]) -> None:
    """The condition and the state, unless the policy leaves the condition out by design."""
    before = values(policy, batch)
    for name in ("conditions", "observations"):
        changed = noise(name, getattr(batch, name), 5)
        moved = (values(policy, replace(batch, **{name: changed})) - before).abs().amax(1)
        assert moved.max() == 0 if name in ignored else moved.min() > 1e-6, name


@torch.no_grad()
def test_the_contents_of_padding_change_nothing(policy: Policy, batch: Batch) -> None:
    """Invariant 3, and 8: the loss too."""
    padding = ~batch.mask
    assert padding.any(1).sum() == 3
    changed = {}
    for name in INPUTS:
        array = getattr(batch, name).clone()
        inside = array[:, before_window(batch, name) :]
        inside[padding] = noise(name, inside[padding], 100)
        changed[name] = array
    other = replace(batch, **changed)
    torch.testing.assert_close(policy.act(other)[0], policy.act(batch)[0])
    for name, (values, weights) in losses(policy, batch).items():
        others, other_weights = losses(policy, other)[name]
        torch.testing.assert_close(others[batch.mask], values[batch.mask])
        assert masked_mean(others, other_weights) == pytest.approx(
            masked_mean(values, weights).item(), rel=1e-6
        )


@torch.no_grad()
def test_the_amount_of_padding_changes_nothing(policy: Policy, batch: Batch) -> None:
    """Invariant 3 and 8: four more padded steps, the same actions and the same loss."""

    def padded(array: torch.Tensor) -> torch.Tensor:
        more = torch.ones(len(array), 4, *array.shape[2:], dtype=array.dtype)
        return torch.cat([array, more], 1)

    changed = {name: padded(getattr(batch, name)) for name in INPUTS}
    nothing = torch.zeros(len(batch.mask), 4, dtype=torch.bool)
    flags = {n: torch.cat([getattr(batch, n), nothing], 1) for n in ("mask", "terminated")}
    longer = replace(batch, **changed, **flags)
    torch.testing.assert_close(policy.act(longer)[0], policy.act(batch)[0], rtol=1e-5, atol=1e-6)
    for name, (values, weights) in losses(policy, batch).items():
        assert masked_mean(*losses(policy, longer)[name]) == pytest.approx(
            masked_mean(values, weights).item(), rel=1e-5
        )


@torch.no_grad()
def test_what_is_carried_from_step_to_step_changes_nothing(
    case: tuple[str, str | None, str, str], policy: Policy, store: EpisodeStore
) -> None:
    """One row lives whole episodes, one after the other, the other row none but first steps."""
    name, backbone, _, kind = case
    (state,) = policy.carry(1, 2, LENGTH)
    if backbone in SLIDING:
        assert (state is not None) == (name in CARRYING and kind != "frames")
    rng = np.random.default_rng(0)
    for index in range(store.num_episodes if state is not None else 0):
        episode = store.episode(index)
        if kind in DISCRETE:
            episode = replace(episode, actions=rng.integers(0, CHOICES, len(episode)))
        labels = rng.normal(size=(len(episode), policy.spec.condition_size)).astype(np.float32)
        for context in lived(policy.spec, LENGTH, episode, labels):
            batch = policy.encoded(context)
            carried, state = policy.decide(batch, state)
            torch.testing.assert_close(carried, policy.decide(batch)[0], rtol=1e-4, atol=1e-5)


def test_a_padded_window_weighs_as_much_as_its_real_steps(policy: Policy, batch: Batch) -> None:
    """Invariant 8: the batch's loss is the mean over its real steps, wherever they lie."""
    for values, weights in losses(policy, batch).values():
        expected = values[weights.bool()].mean()
        found = masked_mean(values, weights).item()
        assert found == pytest.approx(expected.item(), rel=1e-6, abs=1e-8)


@torch.no_grad()
def test_a_batch_in_parts_has_the_losses_of_the_whole(policy: Policy, batch: Batch) -> None:
    """What a policy draws, too: ranks and micro-batches are handed generators of one seed."""
    whole = losses(policy, batch)
    for rows in (slice(0, 3), slice(3, None)):
        present = {n: a[rows] for n, a in vars(batch).items() if a is not None}
        for name, (values, weights) in losses(policy, replace(batch, **present)).items():
            torch.testing.assert_close(values, whole[name][0][rows], rtol=1e-5, atol=1e-6)
            assert torch.equal(weights, whole[name][1][rows])


def test_losses_are_of_the_weights_precision(policy: Policy, gathered: Batch) -> None:
    """In float64, in which runs on several processes are told apart, nothing is rounded to less."""
    exact = gathered.tensors(dtype=torch.float64)
    for name, values in policy.double()(exact, torch.Generator().manual_seed(0)).items():
        assert values.dtype == torch.float64, name


def test_every_trained_parameter_has_a_gradient(policy: Policy, gathered: Batch) -> None:
    """DDP waits forever for a parameter that no loss reaches."""
    means = [masked_mean(*loss) for loss in losses(policy, gathered).values()]
    torch.stack(means).sum().backward()
    without = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_what_was_fitted_travels_with_the_weights(policy: Policy, store: EpisodeStore) -> None:
    if policy.spec.pixels:  # 0 to 255 needs no fit
        return
    if isinstance(policy, TrajectoryTransformer):  # whose bins begin at the least numbers
        least = torch.as_tensor(store.columns["observations"].array.min(0))
        assert (policy.state_dict()["tokenizer.edges"][: len(least), 0] == least).all()
        return
    mean, _ = store.observation_statistics
    found = [t for t in policy.state_dict().values() if t.shape == mean.shape]
    assert any(torch.allclose(t.double(), torch.as_tensor(mean), atol=1e-5) for t in found)
