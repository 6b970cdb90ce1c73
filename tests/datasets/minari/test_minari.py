"""Tests of Minari datasets: invariant 7 in every format, spaces, round trips, fetching, damage."""

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.serialization import serialize_space

from decision_seq.datasets.fetching.download import CONNECT_SECONDS
from decision_seq.datasets.minari import reader as minari
from decision_seq.datasets.minari.export import dataset_id, minari_root, write
from decision_seq.datasets.minari.remote import open_remote
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.types import Episode, Reporter, UserError
from tests.conftest import Lines, make_episode
from tests.loopback import Fault, Loopback, cut, hang, point_hub_at, short, status
from tests.waiting import LIMIT

GOAL = spaces.Dict(
    {
        "observation": spaces.Box(-9, 9, (3, 2), np.float64),
        "goal": spaces.Dict({"place": spaces.Box(-9, 9, (2,), np.float64)}),
        "door": spaces.Discrete(3, start=1),
        "keys": spaces.MultiDiscrete([2, 3], start=[0, 5]),
        "lamp": spaces.MultiBinary(2),
        "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(-9, 9, (), np.float64))),
    }
)
BOX = spaces.Box(-np.inf, np.inf, (11,), np.float64)
TORQUES = spaces.Box(-1, 1, (3,), np.float32)
Make = Callable[..., Path]


def stacked(space: Any, rows: Sequence[Any]) -> Any:
    """Samples of a space stacked as Minari requires: one array per entry."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(s, [row[key] for row in rows]) for key, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(s, [row[i] for row in rows]) for i, s in enumerate(space.spaces))
    return np.stack([np.asarray(row, space.dtype) for row in rows])


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Function that makes a dataset as Minari's users do, by default without an environment."""

    def made(
        lengths: Sequence[int] = (40, 7, 25),
        observation_space: Any = BOX,
        action_space: Any = TORQUES,
        name: str = "toy/set-v0",
        **options: Any,
    ) -> Path:
        import minari as package
        from minari.data_collector import EpisodeBuffer

        rng = np.random.default_rng(3)
        observation_space.seed(1)
        action_space.seed(2)
        buffers = []
        for index, length in enumerate(lengths):
            last = np.arange(length) == length - 1
            observations = [observation_space.sample() for _ in range(length + 1)]
            buffers.append(
                EpisodeBuffer(
                    observations=stacked(observation_space, observations),
                    actions=stacked(action_space, [action_space.sample() for _ in range(length)]),
                    rewards=rng.normal(size=length),
                    terminations=last & (index % 3 == 0),
                    truncations=last & (index % 3 == 1),
                    infos={"speed": rng.normal(size=length + 1).tolist()},
                )
            )
        root = tmp_path / "minari"
        root.mkdir(exist_ok=True)
        with minari_root(root), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=observation_space,
                action_space=action_space,
                **{"jpeg_encoding": False, **options},
            )
        return root / name

    return made


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Path], EpisodeStore]:
    return lambda path: minari.read(path, tmp_path / "read" / path.name)


def episodes_of(path: Path) -> Iterator[Any]:
    """Episodes as Minari itself returns them."""
    import minari as package

    return package.MinariDataset(path / "data").iterate_episodes()


def edit(path: Path, **entries: Any) -> None:
    """Change entries of the metadata; None removes one."""
    file = path / "data" / "metadata.json"
    table = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: v for key, v in table.items() if v is not None}))


def spec_of(env_id: str, **changed: Any) -> str:
    """An environment's specification in the form of Minari's metadata."""
    return json.dumps(json.loads(gymnasium.spec(env_id).to_json()) | changed)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_nothing_is_lost_in_any_format(make: Make, read: Callable, data_format: str) -> None:
    path = make(data_format=data_format)
    store = read(path)
    raw = list(episodes_of(path))
    assert store.header["transitions_in"] == store.num_transitions == 72
    assert store.lengths.tolist() == [40, 7, 25]
    assert store.terminated.tolist() == [True, False, False]
    assert store.truncated.tolist() == [False, True, False]
    for kept, given in zip(store.episodes(), raw, strict=True):
        np.testing.assert_array_equal(kept.observations, given.observations.astype(np.float32))
        np.testing.assert_array_equal(kept.actions, given.actions)
        np.testing.assert_array_equal(kept.rewards, given.rewards)
    np.testing.assert_allclose(store.returns, [episode.rewards.sum() for episode in raw])


def test_returns_are_those_of_the_raw_file(make: Make, read: Callable) -> None:
    path = make()
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        raw = [float(np.sum(file[f"episode_{i}"]["rewards"][:])) for i in range(3)]
        last = file["episode_2"]["observations"][-1]
    store = read(path)
    np.testing.assert_allclose(store.returns, raw, rtol=1e-12)
    final = store.columns["final_observations"].array
    np.testing.assert_array_equal(final[2], last.astype(np.float32))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_dict_observations_are_flattened_as_gymnasium_does(
    make: Make, read: Callable, data_format: str
) -> None:
    path = make((9, 4), GOAL, spaces.Discrete(5), data_format=data_format)
    store = read(path)
    expected = [
        spaces.flatten(
            GOAL,
            {
                "observation": e.observations["observation"][t],
                "goal": {"place": e.observations["goal"]["place"][t]},
                "door": e.observations["door"][t],
                "keys": e.observations["keys"][t],
                "lamp": e.observations["lamp"][t],
                "pair": (e.observations["pair"][0][t], e.observations["pair"][1][t]),
            },
        )
        for e in episodes_of(path)
        for t in range(len(e.rewards))
    ]
    np.testing.assert_array_equal(
        store.columns["observations"].array, np.array(expected).astype(np.float32)
    )
    order = ["door", "goal/place", "keys", "lamp", "observation", "pair"]
    assert store.header["source"]["observation_keys"] == order
    assert store.columns["actions"].dtype == np.int64
    assert store.columns["actions"].shape == (13,)
    raw = np.concatenate([e.actions for e in episodes_of(path)])
    np.testing.assert_array_equal(store.columns["actions"].array, raw)


def test_the_environment_and_the_scale_come_from_the_metadata(make: Make, read: Callable) -> None:
    path = make(env="Hopper-v5", ref_min_score=-20.0, ref_max_score=3000.0)
    header = read(path).header
    assert (header["env_id"], header["family"]) == ("Hopper-v5", "hopper")
    assert header["max_episode_steps"] == 1000
    assert header["reference_scores"] == [-20.0, 3000.0]
    edit(path, eval_env_spec=spec_of("Walker2d-v5", max_episode_steps=7))
    header = read(path).header
    assert (header["env_id"], header["max_episode_steps"]) == ("Walker2d-v5", 7)
    assert header["family"] is None  # 17 observations: a different task
    edit(path, eval_env_spec=None, env_spec=None, ref_min_score=None)
    header = read(path).header
    assert (header["env_id"], header["reference_scores"]) == (None, None)


def test_arguments_of_the_environment_are_kept_where_they_differ(
    make: Make, read: Callable
) -> None:
    path = make()
    edit(path, env_spec=spec_of("Hopper-v5", kwargs={"frame_skip": 2}))
    assert read(path).header["env_id"] == 'Hopper-v5?{"frame_skip": 2}'
    edit(path, env_spec=spec_of("Hopper-v5", id="Mine-v0", kwargs={"b": [1], "a": None}))
    assert read(path).header["env_id"] == 'Mine-v0?{"a": null, "b": [1]}'


def test_spaces_that_the_metadata_lack_are_those_of_plain_arrays(
    make: Make, read: Callable
) -> None:
    path = make()
    edit(path, observation_space=None, action_space=None)
    assert read(path).observation_shape == (11,)
    path = make(observation_space=GOAL, name="toy/goal-v0")
    edit(path, observation_space=None)
    with pytest.raises(UserError, match="lack observation_space, and name no environment"):
        read(path)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_spaces_that_the_data_do_not_show_are_those_of_a_registered_environment(
    make: Make, read: Callable, data_format: str
) -> None:
    cart = spaces.Box(-9, 9, (4,), np.float32)
    path = make(observation_space=cart, action_space=spaces.Discrete(2), data_format=data_format)
    edit(path, action_space=None, env_spec=spec_of("CartPole-v1", entry_point="os:getcwd"))
    assert read(path).choices == 2
    edit(path, env_spec=spec_of("CartPole-v1", id="Mine-v3"))
    with pytest.raises(UserError, match="lack action_space, and their environment cannot tell it"):
        read(path)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("shape", [(40, 36, 3), (33, 32)])
def test_pictures_in_jpeg_are_read_and_said(
    make: Make, tmp_path: Path, data_format: str, shape: tuple[int, ...]
) -> None:
    picture = spaces.Box(0, 255, shape, np.uint8)
    both = spaces.Dict(eye=picture, arm=spaces.Box(-1, 1, (2,), np.float64))
    path = make((3, 2), both, jpeg_encoding=True, data_format=data_format)
    reporter = Lines()
    store = minari.read(path, tmp_path / "read", reporter)
    assert "set-v0: JPEG changed its images; the environment's differ a little" in reporter.lines
    for kept, given in zip(store.episodes(), episodes_of(path), strict=True):
        eyes = given.observations["eye"].reshape(len(given.rewards) + 1, -1)
        np.testing.assert_array_equal(kept.observations[:, :-2], eyes)
    edit(
        path,
        observation_space=serialize_space(
            spaces.Dict(eye=spaces.Box(0, 255, (50, 50, 3), np.uint8))
        ),
    )
    with pytest.raises(UserError, match=r"a picture has shape"):
        minari.read(path, tmp_path / "other")


def test_infos_of_any_kind_do_not_matter(make: Make, read: Callable) -> None:
    path = make()

    def disturb(file: Any) -> None:
        infos = file["episode_0"]["infos"]
        infos["nested/deep"] = np.zeros((3, 2))
        infos["elsewhere"] = h5py.ExternalLink("nowhere.hdf5", "/x")
        infos["type"] = np.dtype("f4")
        del file["episode_1"]["infos"]

    h5(path, disturb)
    assert read(path).num_transitions == 72


def test_the_number_of_choices_is_the_spaces(make: Make, read: Callable) -> None:
    """The data may never take the last choice."""
    path = make((9, 4), BOX, spaces.Discrete(2))
    edit(path, action_space=serialize_space(spaces.Discrete(3)))
    assert read(path).choices == 3


def test_entries_are_in_the_order_of_the_environment(make: Make, read: Callable) -> None:
    """A Dict space of an environment need not be sorted; the metadata keep its order."""
    space = spaces.Dict({"b": BOX, "a": spaces.Discrete(2)}, sort_keys=False)
    path = make((9, 4), space)
    store = read(path)
    assert store.header["source"]["observation_keys"] == ["b", "a"]
    raw = next(episodes_of(path)).observations
    np.testing.assert_array_equal(
        store.episode(0).observations[:, :11], raw["b"].astype(np.float32)
    )


def test_flags_within_an_episode_are_kept_and_told(make: Make, tmp_path: Path) -> None:
    path = make()
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"]["terminations"][3] = True
    lines: list[str] = []
    reporter = Reporter()
    reporter.say = lines.append  # type: ignore[method-assign]
    store = minari.read(path, tmp_path / "read", reporter)
    assert store.lengths.tolist() == [40, 7, 25]
    assert lines == ["set-v0: 1 steps are flagged as ends within their episodes"]


def stored(folder: Path, episodes: Sequence[Episode], **facts: Any) -> EpisodeStore:
    usual = {"env_id": "Hopper-v4", "family": "hopper", "max_episode_steps": 1000}
    with StoreWriter(folder) as writer:
        for episode in episodes:
            writer.append(episode)
        return writer.finish(
            "hopper-medium-v2",
            {"kind": "test", "description": "made here"},
            **{**usual, **facts},
            transitions_in=sum(writer.lengths),
            has_timeouts=True,
        )


def discrete(episode: Episode) -> Episode:
    return replace(episode, actions=np.arange(len(episode)) % 4)


def precise(episode: Episode) -> Episode:
    """An episode with rewards beyond single precision, and without an end."""
    rewards = episode.rewards.astype(np.float64) + 1e-12
    return replace(episode, rewards=rewards, truncated=False)


def frames(episode: Episode) -> Episode:
    shape = (len(episode.observations), 40, 36)
    return replace(episode, observations=np.random.default_rng(0).integers(0, 255, shape, np.uint8))


STORES = {
    "with final observations": [make_episode(n, n, n % 2 == 0) for n in (30, 7, 1)],
    "without final observations": [make_episode(n, n, final=False) for n in (30, 7, 1)],
    "discrete": [discrete(make_episode(n, n)) for n in (9, 5)],
    "double rewards, no end": [precise(make_episode(n, n, False)) for n in (9, 5)],
    "frames": [frames(make_episode(n, n)) for n in (5, 3)],
}


@pytest.mark.parametrize("episodes", STORES.values(), ids=STORES.keys())
def test_a_store_comes_back_bit_for_bit(
    episodes: list[Episode], tmp_path: Path, read: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decision_seq.datasets.minari.export.BLOCK_BYTES", 500)  # several blocks
    odd = {"env_id": None, "family": None, "max_episode_steps": None}
    facts = {} if episodes[0].observations.shape[1:] == (11,) else odd
    store = stored(tmp_path / "store", episodes, **facts)
    name = write(store, tmp_path / "out")
    back = read(tmp_path / "out" / name)
    same_stores(store, back)
    assert {key: back.header[key] for key in odd} == {key: store.header[key] for key in odd}
    assert [path.name for path in tmp_path.glob(".partial-*")] == []


def same_stores(a: EpisodeStore, b: EpisodeStore) -> None:
    assert a.columns.keys() == b.columns.keys()
    for name, column in a.columns.items():
        assert column.dtype == b.columns[name].dtype
        np.testing.assert_array_equal(column.array, b.columns[name].array)
    for name in ("offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Reacher2d-v0"])
def test_minari_opens_what_is_written(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minari as package

    limit = 50
    store = stored(
        tmp_path / "store",
        [make_episode(n, n, n % 2 == 0) for n in (30, 7)],
        env_id=env_id,
        max_episode_steps=limit,
    )
    assert write(store, tmp_path / "out") == dataset_id(store) == "decision_seq/hopper-medium-v2"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    assert list(package.list_local_datasets()) == ["decision_seq/hopper-medium-v2"]
    dataset = package.load_dataset("decision_seq/hopper-medium-v2")
    assert (dataset.total_steps, dataset.total_episodes) == (37, 2)
    for given, kept in zip(dataset.iterate_episodes(), store.episodes(), strict=True):
        np.testing.assert_array_equal(given.observations, kept.observations)
        np.testing.assert_array_equal(given.rewards, kept.rewards)
        assert given.terminations[-1] == kept.terminated
        assert not given.terminations[:-1].any()
    env = dataset.recover_environment()
    assert (env.spec.id, env.spec.max_episode_steps) == (env_id, limit)
    env.close()


def test_writing_overwrites_nothing(store: EpisodeStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "other").mkdir(parents=True)
    name = write(store, out)
    assert (out / "other").is_dir()
    assert name == "decision_seq/toy-v0"
    with pytest.raises(UserError, match=r"toy-v0 exists; delete it"):
        write(store, out)
    assert "MINARI_DATASETS_PATH" not in os.environ


def test_an_environment_that_is_not_here_is_left_out_aloud(tmp_path: Path, read: Callable) -> None:
    lines: list[str] = []
    reporter = Reporter()
    reporter.say = lines.append  # type: ignore[method-assign]
    store = stored(tmp_path / "store", [make_episode(5, 0)], env_id="Mine-v7")
    name = write(store, tmp_path / "out", reporter)
    assert "written without its environment" in lines[0]
    assert read(tmp_path / "out" / name).header["env_id"] == "Mine-v7"


def h5(path: Path, change: Callable[[Any], None]) -> None:
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        change(file)


def replaced(group: str, key: str, value: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        def change(file: Any) -> None:
            new = value(file[group][key][()])
            del file[group][key]
            file[group][key] = new

        h5(path, change)

    return damage


def _nan(array: np.ndarray) -> np.ndarray:
    array[3] = np.nan
    return array


def _cut_file(path: Path) -> None:
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _scramble(path: Path) -> None:
    """Overwrite bytes inside the file; its ends still look like HDF5."""
    file = path / "data" / "main_data.hdf5"
    body = bytearray(file.read_bytes())
    body[800:3000] = b"\xff" * 2200
    file.write_bytes(body)


def meta(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / "data" / "metadata.json").write_text(text)

    return damage


def edited(**entries: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, **entries)


TEXT = '{"type": "Text", "max_length": 5, "min_length": 1, "charset": "ab"}'
IMAGE = serialize_space(spaces.Box(0, 255, (4, 4), np.uint8))
NESTED = json.dumps({"type": "Dict", "subspaces": {"view": json.loads(IMAGE)}})
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing there": (shutil.rmtree, "holds no data/metadata.json"),
    "no metadata": (lambda p: (p / "data/metadata.json").unlink(), "give the folder of a Minari"),
    "no main file": (lambda p: (p / "data/main_data.hdf5").unlink(), "does not exist"),
    "empty main file": (lambda p: (p / "data/main_data.hdf5").write_bytes(b""), "is empty"),
    "half a file": (_cut_file, "is no HDF5 file, or is cut short"),
    "scrambled": (_scramble, "fetch it again"),
    "metadata no JSON": (meta("{"), "is no valid JSON"),
    "metadata a list": (meta("[1]"), "holds no table of keys and values"),
    "metadata deep": (meta("[" * 100_000), "nested too deeply"),
    "steps a text": (edited(total_steps="72"), "total_steps is '72'"),
    "steps true": (edited(total_steps=True), "total_steps is True"),
    "no version": (edited(minari_version=None), "minari_version is None"),
    "another version": (edited(minari_version="9.0.0"), "Minari 9.0.0, which the installed"),
    "another format": (edited(data_format="csv"), "data_format is 'csv'"),
    "nothing in it": (edited(total_steps=0), "holds no transition"),
    "more episodes told": (edited(total_episodes=4), "holds 3 episodes, its metadata say 4"),
    "fewer episodes told": (edited(total_episodes=2), "holds 3 episodes, its metadata say 2"),
    "more steps told": (edited(total_steps=80), "holds 72 transitions, its metadata say 80"),
    "text observations": (edited(observation_space=TEXT), "observation space is Text"),
    "another shape": (edited(observation_space=IMAGE), "their space has (4, 4)"),
    "an entry that is not there": (edited(observation_space=NESTED), "is no group"),
    "text actions": (edited(action_space=TEXT), "has a space Text"),
    "unknown space": (edited(observation_space='{"type": "Odd"}'), "is of the type 'Odd'"),
    "space no JSON": (edited(observation_space="Box"), "observation space is no JSON"),
    "choices of three": (
        lambda p: (
            edited(action_space='{"type": "Discrete", "n": 3, "start": 0}')(p),
            replaced("episode_0", "actions", lambda a: a.astype(np.int64))(p),
        ),
        "1 choice(s) a step",
    ),
    "choices of floats": (
        lambda p: (
            edited(action_space='{"type": "Discrete", "n": 3, "start": 0}')(p),
            replaced("episode_0", "actions", lambda a: a[:, 0])(p),
        ),
        "actions are float32",
    ),
    "choices beyond": (
        lambda p: (
            edited(action_space='{"type": "Discrete", "n": 3, "start": 0}')(p),
            replaced("episode_0", "actions", lambda a: np.arange(len(a)))(p),
        ),
        "actions hold 3; their space has 3 choices from 0",
    ),
    "no env_spec": (edited(env_spec="{"), "env_spec cannot be read"),
    "env_spec odd": (edited(env_spec='{"id": 3}'), "env_spec is malformed"),
    "scores no scale": (edited(ref_min_score=1.0, ref_max_score=1.0), "no two numbers"),
    "own notes odd": (edited(decision_seq={"final": 3}), "'decision_seq' is not ours"),
    "NaN reward": (replaced("episode_1", "rewards", _nan), "episode 1: rewards hold NaN"),
    "text rewards": (
        replaced("episode_1", "rewards", lambda a: np.full(len(a), b"x")),
        "rewards are |S1",
    ),
    "short rewards": (replaced("episode_1", "rewards", lambda a: a[:-2]), "not one flag a step"),
    "short observations": (
        replaced("episode_1", "observations", lambda a: a[:-1]),
        "7 observations of 7 steps",
    ),
    "narrow observations": (
        replaced("episode_1", "observations", lambda a: a[:, :4]),
        "their space has (11,)",
    ),
    "flags of 2": (replaced("episode_1", "terminations", lambda a: a * 2 + 2), "not one flag"),
    "no actions": (lambda p: h5(p, lambda f: f["episode_2"].pop("actions")), "is damaged"),
    "misnamed": (lambda p: h5(p, lambda f: f.move("episode_2", "episode_9")), "is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_bad_dataset_is_one_line_and_leaves_nothing(
    make: Make, case: tuple, tmp_path: Path
) -> None:
    damage, named = case
    path = make()
    damage(path)
    with pytest.raises(UserError) as caught:
        minari.read(path, tmp_path / "read" / "store")
    assert named in str(caught.value)
    assert "set-v0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "read").exists() or list((tmp_path / "read").iterdir()) == []


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_a_missing_or_broken_file_of_an_episode(
    make: Make, read: Callable, data_format: str
) -> None:
    path = make(data_format=data_format)
    file = next((path / "data" / "1").glob("*." + data_format))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="set-v0 is damaged") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    shutil.rmtree(path / "data" / "1")
    with pytest.raises(UserError, match="holds 2 episodes, its metadata say 3"):
        read(path)


ENOUGH = 20  # requests, after which it must be clear that nothing comes
NAME = "toy/set-v0"
HDF5 = "datasets/farama-minari/toy/set-v0/data/main_data.hdf5"


@pytest.fixture
def hub(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """Local Hub that holds the dataset; there is no other copy."""
    path = make((400, 300))
    repository = tmp_path / "hub" / "datasets" / "farama-minari" / "toy"
    shutil.copytree(path, repository / "set-v0")
    shutil.rmtree(path)
    (repository / "namespace_metadata.json").write_text(json.dumps({"datasets": [NAME]}))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    monkeypatch.delenv("MINARI_REMOTE", raising=False)
    with Loopback(tmp_path / "hub") as server:
        point_hub_at(server.url, tmp_path, monkeypatch)
        yield server


def test_a_dataset_is_fetched_once(hub: Loopback, tmp_path: Path, read: Callable) -> None:
    folder = tmp_path / "got"
    path = open_remote(NAME, folder)
    assert path == folder / NAME
    assert read(path).num_transitions == 700
    assert sorted(child.name for child in folder.iterdir()) == ["toy"]
    asked = len(hub.requests)
    assert open_remote(NAME, folder) == path
    assert len(hub.requests) == asked


def test_minaris_own_folders_come_first(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert open_remote(NAME, tmp_path / "got") == path
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    home = tmp_path / "home" / ".minari" / "datasets"
    shutil.copytree(tmp_path / "minari", home)
    assert open_remote(NAME, tmp_path / "got") == home / NAME


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Loopback, tmp_path: Path, read: Callable
) -> None:
    hub.faults[HDF5] = cut(20_500)
    assert read(open_remote(NAME, tmp_path / "got")).num_transitions == 700
    ranges = [asked.range for asked in hub.requests if asked.path.endswith("main_data.hdf5")]
    assert ranges[-1] == "bytes=20000-"  # whole pieces of 1000 bytes are reused


def test_a_run_that_failed_is_gone_on_with(hub: Loopback, tmp_path: Path) -> None:
    hub.faults[HDF5] = status(403, times=1)
    with pytest.raises(UserError, match=r"HTTP 403"):
        open_remote(NAME, tmp_path / "got")
    assert not (tmp_path / "got" / "toy").exists()  # no partial dataset
    before = len(hub.requests)
    assert (open_remote(NAME, tmp_path / "got") / "data" / "main_data.hdf5").is_file()
    again = [asked.path for asked in hub.requests[before:] if asked.method == "GET"]
    assert sum(path.endswith("main_data.hdf5") for path in again) == 1
    assert sum(path.endswith("metadata.json") for path in again) == 0


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "refused": ("*", status(403), "refuses it (HTTP 403)"),
    "not logged in": ("*", status(401), "refuses it (HTTP 401)"),
    "gone": ("*", status(404), "HTTP 404"),
    "broken": ("*", status(500), "answers HTTP 500; run again later"),
    "busy": ("*", status(429), "asks to wait"),
    "silent": ("*", hang(), "cannot be reached"),
    "file refused": (HDF5, status(403), "refuses it (HTTP 403)"),
    "file cut short": (HDF5, short(5000), "should be of size"),
    "file cut again and again": (HDF5, cut(0, times=None), "run again to go on"),
    "nonsense": (
        "datasets/farama-minari/toy/set-v0/data/metadata.json",
        short(30),
        "could not be fetched",
    ),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_what_goes_wrong_there_is_one_line_soon(
    hub: Loopback, case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fault, named = case
    hub.faults[path] = fault
    if fault.kind == "hang":  # a limit that no answer comes within
        monkeypatch.setattr("decision_seq.datasets.fetching.download.CONNECT_SECONDS", 0.2)
    one_line(NAME, named, tmp_path)
    assert len(hub.requests) <= ENOUGH
    assert hub.hung * CONNECT_SECONDS < 5


def one_line(name: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_remote(name, tmp_path / "got")
    assert named in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got" / "toy").exists()


@pytest.mark.parametrize("name", ["toy/sat-v0", "toi/set-v0"])
def test_an_unknown_name_hears_the_nearest(hub: Loopback, name: str, tmp_path: Path) -> None:
    one_line(name, f"nearest there: {NAME}", tmp_path)


@pytest.mark.parametrize("name", ["toy/set", "../set-v0", "/set-v0", "toy//set-v0", ""])
def test_a_name_that_is_none_asks_nobody(hub: Loopback, name: str, tmp_path: Path) -> None:
    one_line(name, "names are like mujoco/hopper/medium-v0", tmp_path)
    assert hub.requests == []


def test_what_came_broken_is_thrown_away(hub: Loopback, tmp_path: Path) -> None:
    file = hub.folder / HDF5
    file.write_bytes(file.read_bytes()[:-50_000])
    one_line(NAME, "cut short", tmp_path)
    assert list((tmp_path / "got").iterdir()) == []


def test_a_full_disk_is_said(
    hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # the small files requested first come from the client's cache
    open_remote(NAME, tmp_path / "first")
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    one_line(NAME, "the disk is full; make room", tmp_path)


def test_no_network_is_said_at_once(
    hub: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at("http://127.0.0.1:9", tmp_path, monkeypatch)
    one_line(NAME, "cannot be reached (Connection refused)", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    one_line(NAME, "HF_HUB_OFFLINE forbids", tmp_path)
    monkeypatch.setenv("MINARI_REMOTE", "nowhere")
    one_line(NAME, "MINARI_REMOTE is 'nowhere'", tmp_path)


def test_a_process_of_its_own_reads_the_variables(hub: Loopback, tmp_path: Path) -> None:
    """Users set HF_ENDPOINT and HF_HOME, which are read when the client is imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "import decision_seq.datasets.fetching.download as download\n"
        f"download.CONNECT_SECONDS = {LIMIT}\n"
        "from decision_seq.datasets.minari.remote import open_remote\n"
        f"print(open_remote({NAME!r}, Path(sys.argv[1])))"
    )
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "got")],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(tmp_path / "got" / NAME)
    assert run.stderr == ""
