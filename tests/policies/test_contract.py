"""Every policy of the registry, over every backbone that it accepts, conditioned and not, with both
kinds of action, frames and auxiliary losses: invariants 1, 2, 3, 4 and 8.

What an entry is tested with follows from the registry and from its own attributes.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from decision_seq.datasets.store import EpisodeStore
from decision_seq.evaluation.acting import PolicyActor, SlidingActor, slides
from decision_seq.models.auxiliary import AuxiliaryConfig
from decision_seq.models.backbones import BackboneConfig
from decision_seq.models.critics import IQLConfig
from decision_seq.models.encoders import ImageConfig
from decision_seq.models.positions import TimestepConfig, WindowConfig, WindowPositions
from decision_seq.policies import Policy, PolicyConfig, TrajectoryTransformer
from decision_seq.sequences.conditioning import Conditioning, label
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.training import masked_mean
from decision_seq.types import Batch, Spec, UserError
from tests.conftest import OBSERVATION, lived

LENGTH = 8
CHOICES = 4  # of a discrete action
FRAMES = (4, 36, 36)  # of a policy with an image encoder, whose actions are choices
DISCRETE = ("discrete", "frames")  # the kinds of case whose actions are choices
# Of the conditionings that a rollout knows, which all reach a policy in the same way, these two.
KNOWN = ("return", "none")


def conditioning(name: str) -> Conditioning:
    """The registry's, with settings for the test store where it has none of its own."""
    given = {"goal": {"goal": (0.0,) * OBSERVATION}, "return": {"scale": 10.0}}
    return Conditioning.get_choice_class(name)(**given.get(name, {}))


def _conditionings(policy: type[PolicyConfig]) -> list[str]:
    """Those that the policy says it accepts, by the names of their labels."""
    known = Conditioning.get_known_choices()
    accepted = [n for n, cls in sorted(known.items()) if policy.accepts(cls.fields)]
    return [n for n in accepted if policy.needs or n in KNOWN]


def _backbones(policy: type[PolicyConfig]) -> list[str | None]:
    """Those that the policy can be built over."""
    if "backbone" not in {field.name for field in fields(policy)}:
        return [None]
    found: list[str | None] = []
    for name in sorted(BackboneConfig.get_known_choices()):
        chosen = BackboneConfig.get_choice_class(name)()
        spec = Spec((OBSERVATION,), 3, "continuous", len(policy.needs), 1000)
        try:
            policy(backbone=chosen, **policy.example).build(spec)
        except UserError as error:
            if "backbone" not in str(error):
                raise
        else:
            found.append(name)
    return found


def _cases() -> list[tuple[str, str | None, str, str]]:
    """What the registry and the configurations' own attributes promise."""
    cases = []
    for name, config in sorted(PolicyConfig.get_known_choices().items()):
        keys = {field.name for field in fields(config)}
        kinds = [kind for kind in ("continuous", "discrete") if kind in config.actions]
        kinds += ["frames"] if "frames" in config.observations and "encoder" in keys else []
        kinds += ["stochastic"] if "head" in keys else []
        losses = sorted(AuxiliaryConfig.get_known_choices()) if config.gives_features else []
        kinds += [f"auxiliary {loss}" for loss in losses]
        for backbone in _backbones(config):
            for chosen in _conditionings(config):
                cases += [(name, backbone, chosen, kind) for kind in kinds]
                if "critic" in keys and chosen == "outcome":
                    cases.append((name, backbone, chosen, "critic"))
    return cases


@pytest.fixture(params=_cases(), ids=lambda case: "-".join(filter(None, case)))
def case(request: pytest.FixtureRequest) -> tuple[str, str | None, str, str]:
    return request.param


@pytest.fixture
def ignored(case: tuple[str, str | None, str, str]) -> set[str]:
    """What the policy leaves out by design: its own choice, or a condition that is empty."""
    name, _, chosen, _ = case
    config = PolicyConfig.get_choice_class(name)
    empty = not conditioning(chosen).fields and config.takes is None
    return set(config.ignores) | ({"conditions"} if empty else set())


@pytest.fixture
def policy(case: tuple[str, str | None, str, str], store: EpisodeStore, spec: Spec) -> Policy:
    name, backbone, labels, kind = case
    torch.manual_seed(0)
    chosen = dict(PolicyConfig.get_choice_class(name).example)
    if backbone:
        chosen["backbone"] = BackboneConfig.get_choice_class(backbone)()
    asked = replace(spec, condition_size=conditioning(labels).size)
    if kind == "critic":
        chosen["critic"] = IQLConfig(width=16)
    if kind == "stochastic":
        chosen["head"] = "stochastic"
    if kind.startswith("auxiliary"):
        loss = AuxiliaryConfig.get_choice_class(kind.removeprefix("auxiliary "))
        chosen["auxiliary"] = {"extra": loss(weight=0.5)}
    if kind in DISCRETE:
        asked = replace(asked, action_kind="discrete", action_size=CHOICES)
    if kind == "frames":
        remembers = BackboneConfig.get_choice_class(backbone)().build().memory == "episode"
        places = TimestepConfig() if remembers else WindowConfig()
        chosen |= {"encoder": ImageConfig((4, 4, 4)), "positions": places, "squash": True}
        asked = replace(asked, observation_shape=FRAMES)
    made = PolicyConfig.get_choice_class(name)(context_length=LENGTH, **chosen).build(asked)
    if kind == "frames" and isinstance(made.positions, WindowPositions):
        for table in (made.positions.place, made.positions.begin.weight):  # they begin at zero
            torch.nn.init.normal_(table, std=0.1)
    made.fit(store, label(store, conditioning(labels)))
    return made.eval()


@pytest.fixture
def gathered(case: tuple[str, str | None, str, str], policy: Policy, store: EpisodeStore) -> Batch:
    chosen, kind = case[2:]
    labels = label(store, conditioning(chosen))
    gatherer = WindowGatherer(store, labels, LENGTH, 1000, policy.futures)
    # First windows of an episode, middle ones, and short ones at its end (rows 28, 36, 88).
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
    """The batch with hindsight conditions, which the tests for the future leave as they are."""
    with torch.no_grad():
        return policy.hindsight(gathered)


def before_window(batch: Batch, name: str) -> int:
    """The number of frames before the window's first step."""
    return getattr(batch, name).shape[1] - batch.mask.shape[1]


def noise(name: str, array: torch.Tensor, size: float) -> torch.Tensor:
    """Replacement values for a field, of its kind and far from the data."""
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
    """name -> (values, weights), both with the same random draws, as in an update."""
    rng = torch.Generator()
    weights = policy.weights(batch, rng.manual_seed(0))
    values = policy(batch, rng.manual_seed(0)).losses
    assert values.keys() == weights.keys()
    return {name: (values[name], weights[name]) for name in weights}


def values(policy: Policy, batch: Batch) -> torch.Tensor:
    """The sum of the losses of every step, [B, T]."""
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

    But for losses that look ahead by design: a critic's, which learns what an action led to from
    the observation that followed, and auxiliary ones that say so.
    """
    ahead = {"critic_q"} | {n for n, loss in policy.auxiliary.items() if loss.looks_ahead}
    before, acted = losses(policy, batch), predictions(policy, batch)
    for step in range(1, LENGTH):
        noisy = noisy_from(batch, step, INPUTS)
        after = losses(policy, noisy)
        for name in before.keys() - ahead:
            torch.testing.assert_close(
                after[name][0][:, :step], before[name][0][:, :step], rtol=1e-5, atol=1e-6
            )
        torch.testing.assert_close(predictions(policy, noisy, step), acted[:, :step])


@torch.no_grad()
def test_an_action_does_not_see_itself(policy: Policy, batch: Batch, ignored: set[str]) -> None:
    """Invariant 2: noise in action t does not change the prediction of t, and changes t + 1's."""
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
    """The condition and the state have an effect, except inputs ignored by design."""
    before = values(policy, batch)
    for name in ("conditions", "observations"):
        changed = noise(name, getattr(batch, name), 5)
        moved = (values(policy, replace(batch, **{name: changed})) - before).abs().amax(1)
        assert moved.max() == 0 if name in ignored else moved.min() > 1e-6, name


@torch.no_grad()
def test_the_contents_of_padding_change_nothing(policy: Policy, batch: Batch) -> None:
    """Invariants 3 and 8: neither actions nor the loss depend on them."""
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
        real = batch.mask & weights.bool()
        torch.testing.assert_close(others[real], values[real])
        assert masked_mean(others, other_weights) == pytest.approx(
            masked_mean(values, weights).item(), rel=1e-6
        )


@torch.no_grad()
def test_the_amount_of_padding_changes_nothing(policy: Policy, batch: Batch) -> None:
    """Invariants 3 and 8: four more padded steps give the same actions and the same loss."""

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


# With frames or auxiliary losses what acts is the same as without.
ACTING = [c for c in _cases() if c[3] != "frames" and not c[3].startswith("auxiliary")]


@pytest.mark.parametrize("case", ACTING, indirect=True, ids=lambda c: "-".join(filter(None, c)))
@torch.no_grad()
def test_a_rollout_step_by_step_is_the_training_forward(
    case: tuple[str, str | None, str, str],
    policy: Policy,
    make_store: Callable[..., EpisodeStore],
) -> None:
    """Invariant 4, whatever acts and whatever it carries: row 1 acts through whole episodes, one
    after the other, row 0 takes first steps alone. Expected: the action at the end of all that is
    remembered, the last K steps or the episode.
    """
    kind = case[3]
    rng = np.random.default_rng(0)
    store = make_store((12, 3, 1, 20), "episodes")  # shorter and longer than a window
    actors = [PolicyActor(policy, 1, 2, LENGTH)]
    if slides(policy, LENGTH):
        actors.append(SlidingActor(policy, 1, 2, LENGTH))
    for index in range(store.num_episodes):
        episode = store.episode(index)
        if kind in DISCRETE:
            episode = replace(episode, actions=rng.integers(0, CHOICES, len(episode)))
        labels = rng.normal(size=(len(episode), policy.spec.condition_size)).astype(np.float32)
        whole = len(episode) if policy.memory == "episode" else LENGTH
        shown = [lived(policy.spec, actor.shown, episode, labels) for actor in actors]
        for context, *short in zip(lived(policy.spec, whole, episode, labels), *shown, strict=True):
            expected = policy.decide(policy.encoded(context))[0]
            for actor, seen in zip(actors, short, strict=True):
                found = actor.decide(0, policy.encoded(seen), None)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_padded_window_weighs_as_much_as_its_real_steps(policy: Policy, batch: Batch) -> None:
    """Invariant 8: the batch's loss is the mean over its real steps, wherever they are."""
    for values, weights in losses(policy, batch).values():
        expected = values[weights.bool()].mean()
        found = masked_mean(values, weights).item()
        assert found == pytest.approx(expected.item(), rel=1e-6, abs=1e-8)


@torch.no_grad()
def test_a_batch_in_parts_has_the_losses_of_the_whole(policy: Policy, batch: Batch) -> None:
    """Random draws agree too: ranks and micro-batches get generators of one seed."""
    whole = losses(policy, batch)
    for rows in (slice(0, 3), slice(3, None)):
        present = {n: a[rows] for n, a in vars(batch).items() if a is not None}
        for name, (values, weights) in losses(policy, replace(batch, **present)).items():
            torch.testing.assert_close(values, whole[name][0][rows], rtol=1e-5, atol=1e-6)
            assert torch.equal(weights, whole[name][1][rows])


def test_losses_are_of_the_weights_precision(policy: Policy, gathered: Batch) -> None:
    """With float64 weights, used to compare runs on several processes, losses are float64."""
    exact = gathered.tensors(dtype=torch.float64)
    learnt = policy.double()(exact, torch.Generator().manual_seed(0))
    for name, values in learnt.losses.items():
        assert values.dtype == torch.float64, name


def test_every_trained_parameter_has_a_gradient(policy: Policy, gathered: Batch) -> None:
    """DDP would hang on a parameter without a gradient."""
    means = [masked_mean(*loss) for loss in losses(policy, gathered).values()]
    torch.stack(means).sum().backward()
    without = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_what_was_fitted_travels_with_the_weights(policy: Policy, store: EpisodeStore) -> None:
    if policy.spec.pixels:  # 0 to 255 needs no fit
        return
    if isinstance(policy, TrajectoryTransformer):  # its bins begin at the smallest numbers
        least = torch.as_tensor(store.columns["observations"].array.min(0))
        assert (policy.state_dict()["tokenizer.edges"][: len(least), 0] == least).all()
        return
    mean, _ = store.observation_statistics
    found = [t for t in policy.state_dict().values() if t.shape == mean.shape]
    assert any(torch.allclose(t.double(), torch.as_tensor(mean), atol=1e-5) for t in found)
