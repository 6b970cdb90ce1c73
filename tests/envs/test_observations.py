"""Tests of the one rule for observations, in data and in environments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from decision_seq.datasets.store import StoreWriter
from decision_seq.envs import Environments, make
from decision_seq.envs.observations import Vectors
from decision_seq.types import Episode, UserError


class Shown(gymnasium.Env):
    """An environment that shows samples of a space."""

    space: Any = None

    def __init__(self) -> None:
        self.observation_space, self.action_space = self.space, spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.space.seed(seed)
        return self.space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.space.sample(), 1.0, False, False, {}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def show(space: Any) -> str:
        monkeypatch.setattr(Shown, "space", space)
        gymnasium.register("Shown-v0", Shown, disable_env_checker=True)
        return "Shown-v0"

    yield show
    gymnasium.registry.pop("Shown-v0", None)


def stacked(space: Any, rows: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: stacked(s, [row[key] for row in rows]) for key, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(s, [row[i] for row in rows]) for i, s in enumerate(space.spaces))
    return np.stack([np.asarray(row) for row in rows])


PLAIN = {
    "vector": spaces.Box(-9, 9, (3,), np.float32),
    "doubles": spaces.Box(-9, 9, (3,), np.float64),
    "number": spaces.Box(-9, 9, (), np.float64),
    "matrix": spaces.Box(-9, 9, (5, 4), np.float32),
    "choice": spaces.Discrete(5),
    "choice from -2": spaces.Discrete(3, start=-2),
    "choices": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "choices of choices": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "bits": spaces.MultiBinary(4),
    "bits of bits": spaces.MultiBinary([2, 3]),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2, 2), np.float32))),
    "dict": spaces.Dict(b=spaces.Discrete(3), a=spaces.Box(-1, 1, (2,), np.float64)),
    "dict in another order": spaces.Dict(
        {"b": spaces.Discrete(3), "a": spaces.MultiBinary(2)}, sort_keys=False
    ),
    "nested": spaces.Dict(x=spaces.Tuple((spaces.Dict(y=spaces.Discrete(2)),))),
    "image": spaces.Box(0, 255, (7, 6, 3), np.uint8),
    "image, channels first": spaces.Box(0, 255, (3, 40, 40), np.uint8),
    "grey image": spaces.Box(0, 255, (8, 8), np.uint8),
    "image of floats": spaces.Box(0, 1, (8, 8, 3), np.float32),
    "image in a dict": spaces.Dict(i=spaces.Box(0, 255, (4, 4), np.uint8), d=spaces.Discrete(4)),
}


@pytest.mark.parametrize("space", PLAIN.values(), ids=PLAIN.keys())
def test_data_and_environment_become_the_same_vectors(
    space: Any, shown: Any, tmp_path: Path
) -> None:
    space.seed(1)
    samples = [space.sample() for _ in range(6)]
    expected = np.stack([spaces.flatten(space, sample) for sample in samples])
    layout = Vectors(space)
    rows = layout.rows(stacked(space, samples))
    np.testing.assert_array_equal(rows, expected.astype(rows.dtype))
    assert rows.shape == (6, layout.size)
    np.testing.assert_array_equal(np.stack([layout.row(sample) for sample in samples]), expected)

    environments = Environments(shown(space), 2)
    assert environments.sizes[0] == (layout.size,)
    seen = environments.reset([3, 3])
    space.seed(3)
    assert seen.shape == (2, layout.size)
    assert environments.envs[0].observation_space.shape == (layout.size,)
    shape = (6, *space.shape) if type(space).__name__ == "Box" and space.shape else rows.shape
    episode = Episode(rows.reshape(shape), np.zeros(6, np.int64), np.ones(6), True, False)
    with StoreWriter(tmp_path / "store") as writer:
        writer.append(episode)
        facts = {"env_id": None, "family": None, "max_episode_steps": None, "has_timeouts": True}
        store = writer.finish("x", {"description": "x"}, transitions_in=6, **facts)
    assert store.observation_shape == (layout.size,)
    np.testing.assert_array_equal(store.episode(0).observations, rows.astype(np.float32))
    assert [statistic.shape for statistic in store.observation_statistics] == [(layout.size,)] * 2
    assert (rows.dtype == np.uint8) == (type(space).__name__ == "Box" and space.dtype == np.uint8)


def test_texts_are_left_out(shown: Any) -> None:
    space = spaces.Dict(
        direction=spaces.Discrete(4),
        image=spaces.Box(0, 255, (7, 7, 3), np.uint8),
        mission=spaces.Text(9),
    )
    assert Vectors(space).left_out == ["mission"]
    assert Environments(shown(space), 1).reset([0]).shape == (1, 4 + 147)


REFUSED = {
    "text": (spaces.Text(5), "is Text"),
    "text only": (spaces.Dict(a=spaces.Text(5)), "only numbers are read"),
    "sequence": (spaces.Sequence(spaces.Discrete(2)), "only vectors of numbers"),
    "graph": (spaces.Graph(spaces.Discrete(2), None), "only vectors of numbers"),
    "sequence within": (spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))), "entry 'a' is"),
    "many choices": (spaces.Discrete(50_000), "has 50,000 choices"),
    "many choices in all": (spaces.MultiDiscrete([4000, 4000]), "has 8,000 choices"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_vector_is_refused_in_one_line(case: Any, shown: Any) -> None:
    space, named = case
    with pytest.raises(UserError, match=named) as caught:
        make(shown(space))
    assert "Shown-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"a": np.zeros((3, 2))}, "lack the entry 'b'"),
        ({"a": np.zeros((3, 2)), "b": np.full(3, 7)}, "run from 7 to 7"),
        ({"a": np.zeros((3, 2)), "b": np.zeros(4, int)}, "of different lengths"),
        ({"a": np.zeros((3, 9)), "b": np.zeros(3, int)}, "have shape"),
        ({"a": [[1.0], [1.0, 2.0]], "b": np.zeros(2, int)}, "of different lengths"),
        ({"a": np.zeros((3, 2)), "b": np.zeros(3)}, "are float64; their space has 3 choices"),
        (np.zeros((3, 5)), "lack the entry 'a'"),
    ],
)
def test_data_that_do_not_fit_their_space_are_one_line(values: Any, named: str) -> None:
    space = spaces.Dict(a=spaces.Box(-9, 9, (2,), np.float64), b=spaces.Discrete(3))
    with pytest.raises(UserError, match=named):
        Vectors(space).rows(values)


def test_an_episode_of_one_hot_vectors_is_bounded() -> None:
    with pytest.raises(UserError, match=r"200,000 steps of 4,000 choices would take 3.2 GB"):
        Vectors(spaces.Discrete(4000)).rows(np.zeros(200_000, np.int64))
