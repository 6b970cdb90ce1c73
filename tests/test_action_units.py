"""Actions keep the environment's units outside a policy, which scales them to [-1, 1] inside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from transformers import DecisionTransformerModel

from decision_seq import checkpoint
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.envs import FACTS, ActionSpace, Environments
from decision_seq.envs import make as make_env
from decision_seq.models.actions import ActionScale, make_actions
from decision_seq.models.backbones import GPTConfig
from decision_seq.policies import DecisionTransformerConfig, PolicyConfig
from decision_seq.runs.actions import action_entries, action_range
from decision_seq.sharing.exporting import export
from decision_seq.sharing.importing import Given, import_policy
from decision_seq.types import Batch, Episode, Reporter, Sampling, Spec, UserError
from tests.conftest import K, Lines

LOW, HIGH = (0.0, -3.0, 10.0), (100.0, 1.0, 11.0)
SCALED = Spec((11,), 3, "continuous", 1, 1000, action_range=(LOW, HIGH))
PLAIN = replace(SCALED, action_range=None)
BOX = spaces.Box(np.float32(LOW), np.float32(HIGH))


def to_units(scaled: np.ndarray) -> np.ndarray:
    return np.array(LOW) + (scaled + 1) / 2 * (np.array(HIGH) - LOW)


def store_of(actions: np.ndarray, path: Path, **facts: object) -> EpisodeStore:
    """A store of two episodes with the actions of both."""
    half = len(actions) // 2
    with StoreWriter(path) as writer:
        for part in (actions[:half], actions[half:]):
            rewards = np.ones(len(part))
            writer.append(Episode(np.ones((len(part), 2), np.float32), part, rewards, True, False))
        known = {"env_id": None, "family": None, "max_episode_steps": None} | facts
        return writer.finish(
            "own", {"description": "own"}, transitions_in=len(actions), has_timeouts=True, **known
        )


@pytest.mark.parametrize("head", ["plain", "linear", "stochastic"])
def test_a_scaled_policy_is_a_plain_one_of_scaled_actions(head: str) -> None:
    torch.manual_seed(0)
    scaled = make_actions(SCALED, 8, head=head)
    plain = make_actions(PLAIN, 8, head=head)
    plain.load_state_dict(scaled.state_dict())  # a range adds nothing to the weights
    hidden, unit = torch.randn(4, 5, 8), torch.rand(4, 5, 3) * 2 - 1
    units = torch.as_tensor(to_units(unit.numpy())).float()
    torch.testing.assert_close(scaled.embedded(units), plain.embedded(unit))
    blank = torch.zeros(4, 5, 1)
    ids = torch.arange(4)

    def batch(actions: torch.Tensor) -> Batch:
        mask = torch.ones(4, 5, dtype=torch.bool)
        return Batch(blank, actions, blank[..., 0], blank, blank[..., 0].long(), mask, ids=ids)

    found = scaled.losses(hidden, batch(units), torch.Generator().manual_seed(1))
    expected = plain.losses(hidden, batch(unit), torch.Generator().manual_seed(1))
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-3, atol=1e-4)
    for sampling in (None, Sampling(torch.rand(4), 0.7)):
        chosen = scaled.choose(hidden[:, 0], sampling).detach().numpy()
        by_hand = to_units(plain.choose(hidden[:, 0], sampling).detach().numpy())
        np.testing.assert_allclose(chosen, by_hand, rtol=1e-5, atol=1e-5)


def test_without_a_range_nothing_is_computed() -> None:
    scale, actions = ActionScale(PLAIN), torch.rand(2, 3)
    assert scale(actions) is actions
    assert scale.inverse(actions) is actions
    assert not list(scale.state_dict())


def test_choices_begin_at_the_spaces_first() -> None:
    torch.manual_seed(0)
    spec = Spec((3,), 4, "discrete", 1, 10, first_choice=-2)
    shifted, counted = make_actions(spec, 8), make_actions(replace(spec, first_choice=0), 8)
    counted.load_state_dict(shifted.state_dict())
    taken, hidden = torch.randint(4, (3, 5)), torch.randn(3, 5, 8)
    assert torch.equal(shifted.embedded(taken - 2), counted.embedded(taken))
    assert torch.equal(shifted.loss(hidden, taken - 2), counted.loss(hidden, taken))
    for sampling in (None, Sampling(torch.rand(3), 1.0)):
        chosen = counted.choose(hidden[:, 0], sampling)
        assert torch.equal(shifted.choose(hidden[:, 0], sampling), chosen - 2)
    later = make_actions(replace(spec, first_choice=1), 8)
    assert later.embedded(torch.zeros(1, 1, dtype=torch.int64)).shape == (1, 1, 8)  # padding


SPACES = {
    "unit box": spaces.Box(-1, 1, (3,)),
    "scaled box": BOX,
    "matrix": spaces.Box(-2, 2, (2, 3)),
    "double": spaces.Box(0, 5, (2,), np.float64),
    "whole numbers": spaces.Box(0, 9, (2,), np.int64),
    "no dimension": spaces.Box(-1, 1, ()),
    "discrete": spaces.Discrete(4),
    "from 1": spaces.Discrete(3, start=1),
    "below 0": spaces.Discrete(3, start=-1),
    "several": spaces.MultiDiscrete([3, 4]),
    "several from 5": spaces.MultiDiscrete([2, 3], start=[5, -1]),
    "a table of choices": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "bits": spaces.MultiBinary(3),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_action_of_a_space_comes_back(name: str) -> None:
    space = SPACES[name]
    space.seed(0)
    known = ActionSpace.of(space, "Env-v0")
    drawn = [space.sample() for _ in range(40)]
    stored = known.from_data(np.array(drawn), "actions")
    assert stored.dtype == (np.int64 if known.kind == "discrete" else np.float32)
    assert stored.shape == ((40,) if known.kind == "discrete" else (40, known.size))
    if known.kind == "discrete":
        assert known.first_choice <= stored.min() <= stored.max()
        assert stored.max() < known.first_choice + known.size
    for action, row in zip(drawn, stored, strict=True):
        back = known.to_environment(row)
        assert space.contains(back) or space.contains(int(back))
        np.testing.assert_allclose(back, action, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "have to be vectors"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "have to be vectors"),
        (spaces.MultiBinary(13), "8.19e+03 combinations"),
        (spaces.Box(0, 1, (0,)), "have to be vectors"),
    ],
)
def test_other_spaces_are_one_line(space: spaces.Space, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        ActionSpace.of(space, "Env-v0")


UNIT, WIDE = np.array([[-1.0], [0.9]] * 4), np.array([[20.0], [60.0]] * 4)


@pytest.mark.parametrize(
    ("actions", "low_high", "scaling", "expected"),
    [
        (UNIT, None, "space", None),
        (WIDE, None, "space", (20, 60)),
        (UNIT, None, "data", (-1, 0.9)),
        (WIDE, None, "none", None),
        (WIDE, (0, 100), "space", (0, 100)),
        (WIDE, (0, 100), "data", (20, 60)),
        (WIDE, (0, 100), "none", None),
        (WIDE, (0, np.inf), "space", (20, 60)),
        (UNIT, (-np.inf, np.inf), "space", None),
        (UNIT, (-1, 1), "space", None),
        (UNIT / 4, (-0.4, 0.4), "space", (-0.4, 0.4)),
        (WIDE, (-1e10, 1e10), "space", (20, 60)),  # says nothing about the data's scale
        (UNIT / 1e4, (-1, 1), "space", None),
        (np.full((8, 1), 7.0), None, "space", (6, 8)),
    ],
)
def test_the_range_is_the_spaces_or_the_datas(
    actions: np.ndarray, low_high: tuple | None, scaling: str, expected: tuple, tmp_path: Path
) -> None:
    store = store_of(actions, tmp_path / "store")
    space = None
    if low_high is not None:
        bounds = (np.array([low_high[0]], float), np.array([low_high[1]], float))
        space = ActionSpace("continuous", 1, 0, bounds, (1,), np.float32)
    found = action_range(store, space, scaling)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_allclose(found, np.array(expected)[:, None], rtol=1e-6)


def test_the_space_is_asked_of_the_environment_and_said(tmp_path: Path) -> None:
    lines = Lines()
    pendulum = store_of(UNIT, tmp_path / "pendulum")
    entries = action_entries(pendulum, "Pendulum-v1", "space", lines)
    assert entries["action_range"] == ((-2.0,), (2.0,))
    assert "from -2 to 2 are scaled to [-1, 1]" in lines.lines[-1]
    assert "the space of Pendulum-v1" in lines.lines[-1]
    acrobot = store_of(np.array([0, 1] * 4), tmp_path / "acrobot")  # never takes choice 2
    entries = action_entries(acrobot, "Acrobot-v1", "space", lines)
    assert (entries["action_size"], entries["first_choice"]) == (3, 0)
    beyond = store_of(np.array([0, 3] * 4), tmp_path / "beyond")
    with pytest.raises(UserError, match="run from 0 to 3; Acrobot-v1 has choices from 0 to 2"):
        action_entries(beyond, "Acrobot-v1", "space", lines)
    one_based = store_of(np.array([1, 3] * 4), tmp_path / "one", choices=3, first_choice=1)
    entries = action_entries(one_based, None, "space", lines)
    assert (entries["action_size"], entries["first_choice"]) == (3, 1)
    outside = store_of(UNIT * 3, tmp_path / "outside", action_bounds=[[-2.0], [2.0]])
    action_entries(outside, None, "space", lines)
    assert "end in tanh cannot leave -2 to 2" in lines.lines[-1]


FAMILIES = [n for n, f in FACTS.items() if f.env_id and f.sizes]


@pytest.mark.parametrize("family", FAMILIES)
def test_published_tasks_have_the_bounds_that_we_know(family: str) -> None:
    env = make_env(str(FACTS[family].env_id))
    low, high = FACTS[family].action_bounds
    assert (env.action_space.low == low).all()
    assert (env.action_space.high == high).all()
    env.close()


@pytest.mark.parametrize("space", [spaces.Box(-2, 2, (1,)), spaces.Box(-2, 2, (1, 1))])
def test_an_environment_receives_its_own_shape(space: spaces.Box) -> None:
    environments = Environments("Pendulum-v1", 2)
    seen: list = []
    for env in environments.envs:
        inner = env.unwrapped.step
        env.step = lambda action, inner=inner: (seen.append(action), inner(action.reshape(1)))[1]
    environments.actions = ActionSpace.of(space, "Pendulum-v1")
    environments.reset([0, 1])
    environments.step(np.arange(2), np.array([[1.5], [-2.0]], np.float32))
    assert [action.shape for action in seen] == [space.shape] * 2
    assert [float(action.ravel()[0]) for action in seen] == [1.5, -2.0]


# What a policy acts on, and its copies in other programs.


@pytest.fixture
def scaled_run(make_checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    def make(head: str = "plain", spec: Spec = SCALED, name: str = "run") -> Path:
        config = DecisionTransformerConfig(K, GPTConfig(2, 2, 16), head=head)
        return make_checkpoint(config, spec=spec, name=name)

    return make


def windows(count: int = 6) -> list[Batch]:
    """Contexts of 1 to K steps with actions in the environment's units."""
    rng = np.random.default_rng(0)
    found = []
    for steps in (*range(1, K + 1), *[K] * count):
        shape = (1, steps)
        found.append(
            Batch(
                rng.normal(size=(*shape, 11)).astype(np.float32),
                to_units(rng.uniform(-1, 1, (*shape, 3))).astype(np.float32),
                np.zeros(shape, np.float32),
                rng.uniform(0, 3, (*shape, 1)).astype(np.float32),
                np.arange(steps)[None],
                np.ones(shape, bool),
            )
        )
    return found


def acted(path: Path, batch: Batch) -> np.ndarray:
    policy = checkpoint.load(path).policy.eval()
    with torch.inference_mode():
        return policy.act(batch.tensors())[0].numpy()


@pytest.mark.parametrize("head", ["plain", "linear"])
def test_transformers_acts_alike_and_comes_back(
    scaled_run: Callable[..., Path], tmp_path: Path, head: str
) -> None:
    path = scaled_run(head)
    folder = export(path, "transformers", tmp_path / "hf", Reporter())
    model = DecisionTransformerModel.from_pretrained(folder).eval()
    config = model.config
    assert (config.action_low, config.action_high) == (list(LOW), list(HIGH))
    assert config.action_tanh == (head == "plain")
    back = import_policy(str(folder), tmp_path / "back", Given(), Lines())
    assert checkpoint.load(back).policy.spec.action_range == (LOW, HIGH)
    low, high = np.array(config.action_low), np.array(config.action_high)
    mean, std = np.array(config.state_mean), np.array(config.state_std)
    for batch in windows():
        ours = acted(path, batch)
        np.testing.assert_array_equal(acted(back, batch), ours)
        actions = (batch.actions - low) / (high - low) * 2 - 1
        with torch.no_grad():
            predicted = model(
                states=torch.tensor((batch.observations - mean) / std).float(),
                actions=torch.tensor(actions).float(),
                returns_to_go=torch.tensor(batch.conditions),
                timesteps=torch.tensor(batch.timesteps),
                attention_mask=torch.tensor(batch.mask).long(),
            ).action_preds[:, -1]
        # relative to the width of each entry's range
        np.testing.assert_allclose(
            (low + (predicted.numpy() + 1) / 2 * (high - low) - ours) / (high - low), 0, atol=1e-5
        )


def test_onnx_acts_alike_in_the_environments_units(
    scaled_run: Callable[..., Path], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = scaled_run()
    file = export(path, "onnx", tmp_path / "policy.onnx", Reporter())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    width = np.array(HIGH) - LOW
    for batch in windows():
        fed = {
            name: getattr(batch, name)
            for name in ("observations", "actions", "conditions", "timesteps")
        }
        fed["lengths"] = batch.mask.sum(1)
        names = {entry.name for entry in session.get_inputs()}
        (found,) = session.run(None, {name: fed[name] for name in names})
        np.testing.assert_allclose((found - acted(path, batch)) / width, 0, atol=1e-5)


def test_an_old_checkpoint_acts_as_it_did(scaled_run: Callable[..., Path], tmp_path: Path) -> None:
    """One whose spec says nothing about ranges, as all did before."""
    path = scaled_run(spec=PLAIN)
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["spec"].pop("action_range") is None
    assert config["spec"].pop("first_choice") == 0
    config["policy"].pop("action_scale")
    expected = [acted(path, batch) for batch in windows()]
    spec = Spec.of(config["spec"])
    assert spec == PLAIN
    old = PolicyConfig.get_known_choices()["dt"](K, GPTConfig(2, 2, 16)).build(spec)
    old.load_state_dict(checkpoint.load(path).policy.state_dict())
    for batch, action in zip(windows(), expected, strict=True):
        with torch.inference_mode():
            np.testing.assert_array_equal(old.eval().act(batch.tensors())[0].numpy(), action)


@pytest.mark.parametrize("bad", [[[0.0], [1.0]], [[0, 0, 0], [1, 1, 0]], [[0] * 3, [1, 1, np.inf]]])
def test_a_range_that_does_not_fit_is_refused(bad: list) -> None:
    tree = {**vars(PLAIN), "action_range": bad}
    with pytest.raises(ValueError, match="action_range"):
        Spec.of(tree)
