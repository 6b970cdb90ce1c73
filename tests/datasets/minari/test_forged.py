"""Tests of forged Minari metadata: nothing that they name is imported, called or made."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from minari.serialization import serialize_space

from decision_seq.datasets.minari import reader
from decision_seq.datasets.minari.spaces import parse
from decision_seq.types import UserError
from tests.audit import audited

EVIL = "evil_module"
CODE = f"""
import os, gymnasium
os.system("touch ran")
open("written", "w").close()
gymnasium.register("Evil-v0", "{EVIL}:Env")
class Env(gymnasium.Env):
    def __init__(self, *a, **k): os.system("touch made")
def wrap(env, **k): os.system("touch wrapped"); return env
"""
BOX = serialize_space(spaces.Box(-np.inf, np.inf, (4,), np.float32))
TWO = serialize_space(spaces.Discrete(2))
CALL = {"name": "Evil", "entry_point": f"{EVIL}:wrap", "kwargs": {}}
HUB = {"name": "Hub", "entry_point": "os:system", "kwargs": {"command": "touch ran"}}


def spec(**changed: Any) -> str:
    return json.dumps(json.loads(gymnasium.spec("CartPole-v1").to_json()) | changed)


# Changes of the metadata; None removes an entry. The last number is the expected exit code of
# `data inspect`: the data themselves are sound, and most can be read without their environment.
FORGED: dict[str, tuple[dict[str, Any], int]] = {
    "entry point": ({"env_spec": spec(entry_point=f"{EVIL}:Env")}, 0),
    "entry point, no spaces": (
        {"env_spec": spec(entry_point=f"{EVIL}:Env"), "observation_space": None},
        0,
    ),
    "entry point, no actions": (
        {"env_spec": spec(entry_point="os:system", kwargs={"command": "touch ran"})}
        | {"observation_space": None, "action_space": None},
        2,
    ),
    "wrapper": ({"env_spec": spec(additional_wrappers=[CALL]), "action_space": None}, 0),
    "wrapper of the library": (
        {"env_spec": spec(additional_wrappers=[HUB]), "action_space": None},
        0,
    ),
    "module in the id": ({"env_spec": spec(id=f"{EVIL}:Evil-v0"), "action_space": None}, 2),
    "module that is there": ({"env_spec": spec(id="os:CartPole-v1")}, 0),
    "evaluation environment": ({"eval_env_spec": spec(id=f"{EVIL}:Evil-v0")}, 0),
    "keyword of a file": ({"env_spec": spec(kwargs={"sutton_barto_reward": "/dev/zero"})}, 0),
    "unknown keyword": (
        {"env_spec": spec(kwargs={"entry_point": f"{EVIL}:Env"}), "action_space": None},
        2,
    ),
    "options in the id": ({"env_spec": spec(id='CartPole-v1?{"render_mode": "human"}')}, 0),
    "odd space": ({"observation_space": json.dumps({"type": f"{EVIL}:Env"})}, 2),
    "no spaces": ({"observation_space": None, "action_space": None, "env_spec": None}, 2),
}

TRAINED = ("wrapper", "evaluation environment")


def forge(folder: Path, changes: dict[str, Any], steps: int = 30) -> Path:
    """A sound dataset of CartPole's sizes, written by hand, with changed metadata."""
    data = folder / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index in range(2):
            group = file.create_group(f"episode_{index}")
            group["observations"] = rng.normal(size=(steps + 1, 4)).astype(np.float32)
            group["actions"] = np.arange(steps) % 2
            group["rewards"] = np.ones(steps)
            group["terminations"] = np.arange(steps) == steps - 1
            group["truncations"] = np.zeros(steps, bool)
    metadata = {
        "dataset_id": f"toy/{folder.name}",
        "minari_version": "0.5.0",
        "data_format": "hdf5",
        "total_episodes": 2,
        "total_steps": 2 * steps,
        "observation_space": BOX,
        "action_space": TWO,
        "env_spec": spec(),
        **changes,
    }
    kept = {key: value for key, value in metadata.items() if value is not None}
    (data / "metadata.json").write_text(json.dumps(kept))
    return folder


def test_nothing_that_forged_metadata_name_is_imported_or_called(tmp_path: Path) -> None:
    (tmp_path / f"{EVIL}.py").write_text(CODE)
    commands: list[list[str]] = []
    expected: list[int | None] = []
    small = ["--train.steps", "1", "--policy.backbone.width", "8", "--policy.backbone.layers", "1"]
    small += ["--policy.context_length", "2", "--train.batch_size", "4", "--evaluation.workers"]
    small += ["1", "--evaluation.episodes", "1"]
    for number, (name, (changes, code)) in enumerate(FORGED.items()):
        path = str(forge(tmp_path / f"forged{number}", changes))
        commands.append(["data", "inspect", path])
        expected.append(code)
        if name not in TRAINED:
            continue
        out = str(tmp_path / "out" / str(number))
        commands.append(["data", "convert", path, "--to", "minari", "--output", f"{out}-minari"])
        commands.append(["train", "--dataset", path, "--output", out, *small])
        commands.append(["evaluate", out, "--workers", "1"])
        expected += [0, 0, None]  # evaluated where the environment is a registered one
    first = str(tmp_path / "forged0")
    commands.append(["doctor", "--dataset", first, "--output", str(tmp_path / "doctor"), *small])
    found = audited(
        commands, [tmp_path], [EVIL], cwd=tmp_path, PYTHONPATH=str(tmp_path), HOME=str(tmp_path)
    )
    assert found.violations == [], found.output
    assert not {"ran", "written", "made", "wrapped"} & set(os.listdir(tmp_path))
    assert "Traceback" not in found.output, found.output
    for command, code, wanted in zip(commands, found.codes, [*expected, None], strict=True):
        assert code in ((0, 2) if wanted is None else (wanted,)), (command, found.output)


def test_the_watch_refuses_what_it_is_there_for(tmp_path: Path) -> None:
    (tmp_path / f"{EVIL}.py").write_text(CODE)
    commands = [["evaluate", str(tmp_path), "--env", f"{EVIL}:Evil-v0"]]
    allowed, other = tmp_path / "allowed", tmp_path / "other.hdf5"
    path = str(forge(allowed / "sound", {}))
    commands.append(["data", "convert", path, "--output", str(other), "--to", "d4rl"])
    found = audited(
        commands,
        [allowed],
        [EVIL],
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
        DECISION_SEQ_DATA=str(allowed / "stores"),
    )
    assert any(EVIL in violation for violation in found.violations)
    assert any(violation.startswith("os.mkdir") for violation in found.violations)
    assert not (tmp_path / "ran").exists()
    assert not other.exists()


def nested(depth: int) -> str:
    return '{"type": "Tuple", "subspaces": [' * depth + BOX + "]}" * depth


def box(shape: Any, **more: Any) -> str:
    tree = {"type": "Box", "shape": shape, "dtype": "float32", "low": 0.0, "high": 1.0}
    return json.dumps(tree | more)


ODD = {
    "endless choices": (json.dumps({"type": "Discrete", "n": 10**6, "start": 0}), "1,000,000"),
    "many choices": (json.dumps({"type": "Discrete", "n": 50_000, "start": 0}), "50,000 choices"),
    "choices beyond all": (json.dumps({"type": "Discrete", "n": 10**400, "start": 0}), "no count"),
    "no choice": (json.dumps({"type": "Discrete", "n": 0, "start": 0}), "no count"),
    "choices true": (json.dumps({"type": "Discrete", "n": True}), "no count"),
    "start a text": (json.dumps({"type": "Discrete", "n": 2, "start": "0"}), "start is '0'"),
    "many of many": (
        json.dumps({"type": "MultiDiscrete", "nvec": [4000, 4000], "start": [0, 0]}),
        "8,000 choices",
    ),
    "nvec negative": (json.dumps({"type": "MultiDiscrete", "nvec": [-1]}), "do not fit"),
    "nvec ragged": (json.dumps({"type": "MultiDiscrete", "nvec": [[1], [1, 2]]}), "MultiDiscrete"),
    "bits beyond all": (json.dumps({"type": "MultiBinary", "n": 2**40}), "too large"),
    "bits of bits": (json.dumps({"type": "MultiBinary", "n": [2**20, 2**20]}), "too large"),
    "box beyond all": (box([2**40]), "too large"),
    "box of boxes": (box([2**11, 2**11, 2**11]), "too large"),
    "negative box": (box([-4]), "no count"),
    "box of halves": (box([0.5]), "no count"),
    "box of dimensions": (box([1] * 1000), "too large"),
    "dtype of objects": (box([4], dtype="O"), "dtype is 'O'"),
    "dtype of fields": (box([4], dtype="f4,f4"), "dtype is"),
    "bounds of text": (box([4], low="x"), "Box"),
    "bounds of another shape": (box([4], low=[0, 0]), "bounds of shapes"),
    "deep": (nested(30), "nested more than 16"),
    "very deep": (nested(10_000), "no JSON"),
    "a list": ("[]", "is of the type"),
    "a type of its own": ('{"type": ["Box"]}', "is of the type"),
    "entries a number": ('{"type": "Dict", "subspaces": 3}', "is no Dict"),
    "lacks n": ('{"type": "Discrete"}', "is no Discrete"),
    "nothing in it": ('{"type": "Dict", "subspaces": {}}', "only numbers are read"),
    "sequence": ('{"type": "Sequence", "feature_space": {}}', "type 'Sequence'"),
    "text": ('{"type": "Text", "max_length": 5, "min_length": 1, "charset": "a"}', "Text"),
    "number": ("5" * 5000, "no JSON"),
}


@pytest.mark.parametrize("case", ODD.values(), ids=ODD.keys())
def test_an_odd_space_is_one_line_before_anything_is_allocated(
    case: tuple[str, str], tmp_path: Path
) -> None:
    text, named = case
    path = forge(tmp_path / "odd", {"observation_space": text})
    with pytest.raises(UserError) as caught:
        reader.read(path, tmp_path / "out" / "store")
    line = str(caught.value)
    assert named in line
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < 500
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (7, 7, 3), np.uint8),
        spaces.Box(np.array([-1.0, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (), np.float32))),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"c": spaces.MultiBinary(1)})}),
    ],
    ids=str,
)
def test_spaces_are_parsed_as_minari_wrote_them(space: Any) -> None:
    assert parse(serialize_space(space), "it") == space


def test_the_parser_itself_stops_at_the_depth() -> None:
    with pytest.raises(UserError, match=r"it.* is nested more than 16 deep"):
        parse(nested(17), "it")


def link(kind: str, path: Path, other: Path) -> None:
    """Move an array of the first episode to another place and link to it."""
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        if kind == "external":
            file["episode_0/rewards"] = h5py.ExternalLink(str(other), "secret")
        if kind == "soft to external":
            file["hidden"] = h5py.ExternalLink(str(other), "/")
            file["episode_0/rewards"] = h5py.SoftLink("/hidden/secret")
            file.move("episode_1", "kept")
            file["episode_1"] = file["kept"]
            del file["kept"]
        if kind == "in a circle":
            file["episode_0/rewards"] = h5py.SoftLink("/episode_0/rewards")
        if kind == "virtual":
            layout = h5py.VirtualLayout((30,), np.float64)
            layout[:] = h5py.VirtualSource(str(other), "secret", (30,))
            file.create_virtual_dataset("episode_0/rewards", layout)
        if kind == "promised":
            file.create_dataset("episode_0/rewards", (2**40,), "f8", chunks=(1024,))
        if kind == "a group":
            file.create_group("episode_0/rewards")
        if kind == "jagged":
            rows = file.create_dataset("episode_0/rewards", (30,), h5py.vlen_dtype(np.float64))
            for row in range(30):
                rows[row] = np.ones(row % 3)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("external", "lies in another file"),
        ("soft to external", "another file|holds 3 episodes"),
        ("in a circle", "a link that leads nowhere"),
        ("virtual", "lies in other files"),
        ("promised", "would unpack to"),
        ("a group", "is no array"),
        ("jagged", "not numbers|not one flag|rewards"),
    ],
)
def test_data_elsewhere_are_not_read(kind: str, named: str, tmp_path: Path) -> None:
    other = tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.ones(30)
    path = forge(tmp_path / "linked", {})
    link(kind, path, other)
    with pytest.raises(UserError, match=named) as caught:
        reader.read(path, tmp_path / "out" / "store")
    assert "\n" not in str(caught.value)


def test_a_link_within_the_file_is_followed(tmp_path: Path) -> None:
    path = forge(tmp_path / "linked", {})
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file.move("episode_1/rewards", "episode_1/moved")
        file["episode_1/between"] = h5py.SoftLink("/episode_1/moved")
        file["episode_1/rewards"] = h5py.SoftLink("between")
    assert reader.read(path, tmp_path / "store").num_transitions == 60


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_a_pipe_in_place_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    path = forge(tmp_path / "piped", {})
    (path / "data" / name).unlink()
    os.mkfifo(path / "data" / name)
    with pytest.raises(UserError, match=r"is a pipe|no regular file|holds no data/metadata.json"):
        reader.read(path, tmp_path / "store")


def test_a_pipe_among_arrow_files_is_refused(tmp_path: Path) -> None:
    path = forge(tmp_path / "piped", {"data_format": "arrow"})
    for index in range(2):
        (path / "data" / str(index)).mkdir()
        os.mkfifo(path / "data" / str(index) / "part-0.arrow")
    with pytest.raises(UserError, match="no regular file"):
        reader.read(path, tmp_path / "store")
    shutil.rmtree(path)
