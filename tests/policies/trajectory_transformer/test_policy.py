"""Tests of the Trajectory Transformer: tokens, losses, and agreement of planning and training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from decision_seq.bench.planning import Uncached
from decision_seq.models.backbones import GPTConfig
from decision_seq.models.critics import IQLConfig
from decision_seq.policies.trajectory_transformer import (
    TrajectoryTransformer,
    TrajectoryTransformerConfig,
)
from decision_seq.policies.trajectory_transformer.imagination import CachedReader, Imagination
from decision_seq.policies.trajectory_transformer.planner import PlannerConfig, plan
from decision_seq.policies.trajectory_transformer.policy import LossWeights
from decision_seq.sequences.conditioning import label
from decision_seq.sequences.conditioning.outcome import GoalOutcome, Outcome
from decision_seq.sequences.windows import WindowGatherer
from decision_seq.types import Batch, Sampling, Spec, UserError

WINDOW, BINS, SIZE = 6, 8, 11 + 3 + 2
PLANNER = PlannerConfig(horizon=3, beams=4, context=3, keep=3)
GOAL = GoalOutcome(goal=(0.5,) * 11, termination_penalty=-10.0)


@pytest.fixture(params=[Outcome(termination_penalty=-10.0), GOAL], ids=["outcome", "goal"])
def conditioning(request) -> Outcome:
    return request.param


def make_policy(store, conditioning, **settings) -> TrajectoryTransformer:
    torch.manual_seed(0)
    spec = Spec((11,), 3, "continuous", conditioning.size, 1000, conditioning.discount)
    config = TrajectoryTransformerConfig(
        **{
            "context_length": WINDOW,
            "bins": BINS,
            "backbone": GPTConfig(layers=3, heads=2, width=32, activation="gelu"),
            "planner": PLANNER,
            **settings,
        }
    )
    policy = config.build(spec).eval()
    policy.fit(store, label(store, conditioning))
    for weight in policy.parameters():  # makes attention far from uniform
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return policy


@pytest.fixture
def policy(store, conditioning) -> TrajectoryTransformer:
    return make_policy(store, conditioning)


@pytest.fixture
def batch(store, conditioning) -> Batch:
    gatherer = WindowGatherer(store, label(store, conditioning), WINDOW, 1000)
    # Whole; cut by the end of episode 0 (30 steps); cut by a time limit (row 37, 7 steps).
    return gatherer.gather(np.array([0, 8, 27, 33, 100])).tensors()


def test_the_tokens_of_a_transition(policy, batch, conditioning) -> None:
    tokens = policy.tokens(batch)
    assert tokens.shape == (5, WINDOW, SIZE)
    known = torch.cat([batch.observations, batch.actions, batch.conditions[..., :2]], -1)
    centers = policy.tokenizer.decode(tokens.clamp(max=BINS - 1))
    edges = policy.tokenizer.edges
    wide = (edges[:, 1:] - edges[:, :-1]).max(1).values
    assert ((centers - known).abs()[batch.mask] <= wide).all()
    assert batch.terminated.any(1).tolist() == [False, False, True, False, False]
    assert (tokens[2, 3:] == BINS).all()  # stop tokens after an end
    assert (tokens[[0, 1, 3, 4]] < BINS).all()  # none after a time limit
    counted = policy.weights(batch, torch.Generator())["action"]
    assert counted.sum(1).tolist() == [6, 6, 6, 4, 6]


@torch.no_grad()
def test_losses_equal_a_plain_loop(policy, batch) -> None:
    """Token by token, each predicted from those before it, with heads and embeddings by hand."""
    losses = policy(batch, torch.Generator()).losses
    tokens = policy.tokens(batch)
    assert policy.loss_weights == {"observation": 1.0, "action": 5.0, "reward": 1.0, "value": 1.0}
    kinds = ["observation"] * 11 + ["action"] * 3 + ["reward", "value"]
    expected = {name: torch.zeros(5, WINDOW) for name in losses}
    heads = policy.head.weight.view(SIZE, BINS + 1, -1)
    for row in range(5):
        goal = []
        if policy.goal:
            reached = policy.tokenizer.encode(batch.conditions[row, 0, 2:])
            goal = [policy.embed_goal.weight[d * BINS + t] for d, t in enumerate(reached)]
        flat = tokens[row].flatten().tolist()
        ids = [SIZE * BINS if t == BINS else (i % SIZE) * BINS + t for i, t in enumerate(flat)]
        sequence = torch.stack([*goal, *(policy.embed.weight[i] for i in ids[:-1])])
        sequence = sequence + policy.positions[: len(sequence)]
        hidden = policy.backbone(sequence[None])[0][0]
        for place, token in enumerate(flat):
            read = place - 1 + len(goal)
            if read < 0:
                continue
            logits = heads[place % SIZE] @ hidden[read]
            kind = kinds[place % SIZE]
            error = -logits.log_softmax(-1)[token] / SIZE
            expected[kind][row, place // SIZE] += error
    for name, values in losses.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_token_is_seen_before_it_stands_there(policy, batch) -> None:
    """Another token at j changes no prediction of tokens up to j; a value's only later ones."""
    tokens, goal = policy.tokens(batch), policy._goal(batch)
    flat = tokens.flatten(1)

    def predicted(of: Tensor) -> Tensor:  # [B, L, N + 1]
        return policy._logits(of.view_as(tokens), goal).permute(1, 2, 0, 3).flatten(1, 2)

    before = predicted(flat)
    for place in (0, 5, SIZE - 1, SIZE, 3 * SIZE - 1, 3 * SIZE + 12):
        other = flat.clone()
        other[:, place] = (flat[:, place] + 1) % BINS
        moved = (predicted(other) - before).abs().amax((0, 2)) > 1e-5
        expected = torch.arange(flat.shape[1]) > place
        if place % SIZE == SIZE - 1:
            expected &= torch.arange(flat.shape[1]) == place + 1
        assert (moved == expected).all(), place


@torch.no_grad()
def test_what_is_read_piece_by_piece_is_what_is_trained(policy, batch) -> None:
    """The cached logits of every token of a window equal those of the training pass."""
    tokens, goal = policy.tokens(batch), policy._goal(batch)
    trained = policy._logits(tokens, goal).permute(1, 2, 0, 3).flatten(1, 2)  # [B, L, N + 1]
    flat, start = tokens.flatten(1), 2 * SIZE + 11
    reader = Imagination(policy, goal).begin(flat[:, :start], None, shared=True)
    reader.fork(2)
    for place in range(start, flat.shape[1]):
        doubled = trained[:, place].repeat_interleave(2, 0)
        torch.testing.assert_close(reader.logits(), doubled, rtol=1e-5, atol=1e-5)
        if place + 1 < flat.shape[1]:
            reader.read(flat[:, place].repeat_interleave(2, 0))


class _Recorded:
    """Wrapper of a model that records the logits of its readers."""

    def __init__(self, model: Imagination) -> None:
        self.model, self.appraise, self.found = model, model.appraise, list[Tensor]()

    def begin(self, *arguments, **named):
        reader = self.model.begin(*arguments, **named)
        logits = reader.logits

        def recorded() -> Tensor:
            self.found.append(logits())
            return self.found[-1]

        reader.logits = recorded
        return reader


@torch.no_grad()
@pytest.mark.parametrize("objective", ["return", "likelihood"])
def test_a_plan_of_15_steps_is_the_same_without_a_cache(policy, batch, objective) -> None:
    """All intermediate distributions agree while the window fills repeatedly.

    The rows have contexts of zero, one and three transitions.
    """
    batch = replace(batch, mask=torch.arange(WINDOW) < torch.tensor([[1], [2], [4], [4], [6]]))
    prefix, lengths = policy.prefix(policy.encoded(batch))
    assert (lengths // SIZE).tolist() == [0, 1, 3, 3, 3]
    config = PlannerConfig(horizon=15, beams=3, context=3, keep=2, objective=objective)
    sampling = Sampling(torch.rand(5, generator=torch.Generator().manual_seed(0)), 1.0)
    plans, found = [], []
    for model in (Imagination, Uncached):
        recorded = _Recorded(model(policy, policy._goal(batch)))
        plans.append(plan(recorded, prefix, lengths, policy.layout, config, WINDOW, 0.99, sampling))
        found.append(recorded.found)
    assert (plans[0] == plans[1]).all()
    assert plans[0].shape == (5, 15, 3)
    assert len(found[0]) == len(found[1]) >= 15 * SIZE - 11 - 1
    for cached, whole in zip(*found, strict=True):
        torch.testing.assert_close(cached, whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rewards_are_expected_ones_and_stops_are_worth_nothing(policy) -> None:
    draw = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 7, BINS + 1, generator=draw) * 3
    centers = policy.tokenizer.centers
    rewards, onward = Imagination(policy, None).appraise(torch.zeros(7, 15), reward, value)
    for row in range(7):
        p, q = reward[row].softmax(-1), value[row].softmax(-1)
        r = sum(p[i] * centers[14, i] for i in range(BINS))
        v = sum(q[i] * centers[15, i] for i in range(BINS))
        assert rewards[row].item() == pytest.approx(r.item(), rel=1e-5)
        assert onward[row].item() == pytest.approx((r + 0.99 * v).item(), rel=1e-5)


@torch.no_grad()
def test_a_percentile_in_place_of_the_mean(store) -> None:
    policy = make_policy(store, Outcome(), planner=replace(PLANNER, percentile=0.5))
    likely = torch.tensor([[0.3, 0.15, 0.1, 0.45, 0.0, 0.0, 0.0, 0.0, 0.0]])
    stopping = torch.tensor([[0.4] + 7 * [0.0] + [0.6]])
    both = torch.cat([likely, stopping]).log()
    rewards, onward = Imagination(policy, None).appraise(None, both, both)
    centers = policy.tokenizer.centers
    assert rewards.tolist() == [centers[14, 2].item(), 0.0]  # an ended row has value 0
    assert onward[1] == 0


@torch.no_grad()
def test_where_nothing_is_drawn_one_future_does(policy, batch) -> None:
    encoded = policy.encoded(replace(batch, terminated=None))
    rows: list[int] = []
    read = CachedReader.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedReader, "read", lambda s, t: (rows.append(len(t)), read(s, t)))
        policy.plan(encoded)
    assert set(rows) == {len(batch.mask)}


@pytest.fixture
def with_critic(store) -> TrajectoryTransformer:
    planner = replace(PLANNER, horizon=1, beams=8)
    return make_policy(store, Outcome(), planner=planner, critic=IQLConfig(width=16))


@torch.no_grad()
def test_a_critic_tells_what_a_step_is_worth(with_critic) -> None:
    """Values are of the centres of the bins; rewards are the model's; ended rows have value 0."""
    tokens = torch.randint(BINS, (6, SIZE - 1), generator=torch.Generator().manual_seed(0))
    reward, value = torch.randn(2, 6, BINS + 1, generator=torch.Generator().manual_seed(1))
    imagination, centers = Imagination(with_critic, None), with_critic.tokenizer.centers
    rewards, onward = imagination.appraise(tokens, reward, value)
    likely = reward.softmax(-1)[:, :BINS]
    torch.testing.assert_close(rewards, likely @ centers[14])
    numbers = torch.stack([centers[d, tokens[:, d]] for d in range(14)], 1)
    worth = with_critic.critic.onward(numbers[:, :11], numbers[:, 11:])
    assert onward.tolist() == worth.tolist()
    assert (worth != 0).all()
    ended = tokens.clone()
    for row, place in ((0, 0), (1, 10), (2, 11), (3, 13), (4, 14)):
        ended[row, place] = BINS
    after = imagination.appraise(ended, reward, value)[1]
    # In row 4 the stop is at the reward; the critic itself accounts for the chance of that end.
    assert after.tolist() == [0, 0, 0, 0, *worth[4:].tolist()]


@torch.no_grad()
def test_plans_follow_the_critic(with_critic, store, monkeypatch) -> None:
    """The critic overrules the value tokens: their choice has the lowest value for the critic."""
    gatherer = WindowGatherer(store, label(store, Outcome()), WINDOW, 1000)
    batch = with_critic.encoded(gatherer.gather(np.array([0, 8, 40])).tensors())
    sampling = Sampling(torch.tensor([0.2, 0.5, 0.8]), 1.0)

    def first() -> Tensor:
        tokens = with_critic.plan(batch, sampling)[:, 0]
        return with_critic.tokenizer.decode(tokens, 11)  # [3, A]

    critic, with_critic.critic = with_critic.critic, None
    by_tokens = first()
    with_critic.critic = critic
    found = []
    for sign in (1, -1):
        worth = lambda observations, actions, sign=sign: (  # noqa: E731
            sign * (actions.view(3, -1, 3) - by_tokens[:, None]).norm(dim=-1).flatten()
        )
        monkeypatch.setattr(critic, "onward", worth)
        found.append(first())
    apart = [(actions - by_tokens).norm(dim=-1) for actions in found]
    assert (apart[0] > 0.5).all()
    assert (apart[1] == 0).all()


def test_what_no_critic_serves_is_refused(store) -> None:
    imitation = replace(PLANNER, objective="likelihood")
    with pytest.raises(UserError, match="objective `return`"):
        TrajectoryTransformerConfig(WINDOW, planner=imitation, critic=IQLConfig())
    for window in (1, WINDOW):  # re-reading would leave no space in the window
        with pytest.raises(UserError, match=r"exceed policy\.context_length"):
            TrajectoryTransformerConfig(window, planner=replace(PLANNER, context=0, keep=window))
    with pytest.raises(UserError, match="knows no goals"):
        make_policy(store, GOAL, critic=IQLConfig())


@torch.no_grad()
def test_a_rollout_reads_what_was_trained_on(policy, batch) -> None:
    """The tokens of a rollout's context equal the window's, except those not yet known."""
    tokens = policy.tokens(batch)
    for step in range(WINDOW):
        seen = torch.arange(WINDOW) <= step
        live = replace(
            batch,
            mask=seen.expand_as(batch.mask),
            conditions=torch.cat([torch.zeros(5, WINDOW, 2), batch.conditions[..., 2:]], -1),
            terminated=None,
        )
        prefix, lengths = policy.prefix(policy.encoded(live))
        past = min(step, 3)
        assert (lengths == past * SIZE + 11).all()
        for row in (0, 1, 4):  # whole windows
            of = tokens[row, step - past : step + 1].flatten()[: past * SIZE + 11]
            same = prefix[row, : len(of)] == of
            assert same.view(-1)[torch.arange(len(of)) % SIZE != SIZE - 1].all()


@torch.no_grad()
def test_a_plan_is_followed_and_made_anew(store) -> None:
    policy = make_policy(store, Outcome(), planner=replace(PLANNER, every=2, beams=2))
    gatherer = WindowGatherer(store, label(store, Outcome()), WINDOW, 1000)
    made: list[Tensor] = []
    planned = policy.plan
    policy.plan = lambda *given: made.append(planned(*given)) or made[-1]  # type: ignore
    batch = gatherer.gather(np.array([0, 40])).tensors()
    sampling = Sampling(torch.tensor([0.2, 0.8]), 1.0)
    state, acted = None, []
    for step, begun in enumerate([False, False, False, True, False]):
        timesteps = batch.timesteps + 10 * (step + 1)
        if begun:  # row 1 begins a new episode
            timesteps[1] = 0
        action, state = policy.act(replace(batch, timesteps=timesteps), state, sampling)
        acted.append(action)
    assert len(made) == 4  # at steps 0, 2, 3 (row 1) and 4 (row 0)
    decode = lambda tokens: policy.tokenizer.decode(tokens, 11)  # noqa: E731
    for step, (row0, row1) in enumerate([(0, 0), (0, 0), (1, 1), (1, 2), (3, 2)]):
        age0, age1 = (0, 1, 0, 1, 0)[step], (0, 1, 0, 0, 1)[step]
        assert (acted[step][0] == decode(made[row0][0, age0])).all()
        assert (acted[step][1] == decode(made[row1][1, age1])).all()


@torch.no_grad()
def test_the_goal_is_heeded(store) -> None:
    policy = make_policy(store, GOAL)
    gatherer = WindowGatherer(store, label(store, GOAL), WINDOW, 1000)
    batch = gatherer.gather(np.array([0, 8])).tensors()
    other = batch.conditions.clone()
    other[..., 2:] += 3
    for name, values in policy(replace(batch, conditions=other), torch.Generator()).losses.items():
        assert (values != policy(batch, torch.Generator()).losses[name]).any()


def test_the_loss_falls(store) -> None:
    policy = make_policy(store, Outcome()).train()
    gatherer = WindowGatherer(store, label(store, Outcome()), WINDOW, 1000)
    batch = gatherer.gather(np.arange(0, 80, 3)).tensors()
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    totals = []
    for _ in range(30):
        losses = policy(batch, torch.Generator()).losses
        total = torch.stack([values.mean() for values in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.75 * totals[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"observation_shape": (4, 84, 84)}, "vector observations"),
        ({"action_kind": "discrete"}, "continuous actions"),
    ],
)
def test_what_it_cannot_model_is_refused(changes, named) -> None:
    spec = replace(Spec((11,), 3, "continuous", 2, 1000), **changes)
    with pytest.raises(UserError, match=named):
        TrajectoryTransformerConfig().build(spec)


@pytest.mark.parametrize("key", ["horizon", "beams", "expand"])
def test_plans_without_end_are_refused_before_training(key: str) -> None:
    with pytest.raises(UserError, match=f"policy.planner.{key} 1000000000000 must be at most"):
        PlannerConfig(**{key: 10**12})


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="weights are all 0"):
        LossWeights(0, 0, 0, 0)
    LossWeights(0, 1, 0, 0)


def test_a_context_and_a_plan_that_exceed_the_window_are_refused() -> None:
    with pytest.raises(UserError, match="the window of 8 transitions"):
        TrajectoryTransformerConfig(context_length=8)
