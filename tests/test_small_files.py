"""Tests of files that never end, or are no files: one line, in ten seconds and a gibibyte.

One process, which limits its own memory, runs every case (`python -m tests.test_small_files`).
"""

import contextlib
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

SECONDS, BYTES = 10, 1 << 30  # of the processor, as the machine may be busy; and of memory
HANGS = 60  # seconds after which a case that waits is ended
Case = Callable[[Path], list[str]]  # changes a copy of the sound files, returns the arguments


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def plugged(path: Path) -> None:
    """A socket."""
    path.unlink(missing_ok=True)
    here = os.getcwd()
    os.chdir(path.parent)  # its path must be short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def sparse(path: Path) -> None:
    path.write_bytes(b"{")
    os.truncate(path, 1 << 40)


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding) and None


MERGED = ["a0: &a0 {x: 1, y: 2}"]
MERGED += [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
BOMBS = {
    "merge keys": text("\n".join(MERGED)),
    "aliases": text(
        "\n".join(
            [
                "a0: &a0 [x]",
                *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)),
            ]
        )
    ),
    "base 60": text("seed: 1" + ":59" * 100_000),
    "digits": text("seed: " + "9" * 5000),
    "values": text("[" + "1," * 100_000 + "]"),
    "depth": text("[" * 100_000),
    "latin-1": text("dataset: grün", "latin-1"),
}
SPECIAL = {"pipe": pipe, "socket": plugged, "device": device, "folder": folder, "sparse": sparse}
NUMBERS = {"deep": text("[" * 100_000), "long": text('{"step": ' + "9" * 5000 + "}")}


def of_checkpoint(name: str, spoil: Callable[[Path], None]) -> Case:
    def make(base: Path) -> list[str]:
        from tests.conftest import seal

        path = base / "run/checkpoints/step-00000007"
        spoil(path / name)
        if name != "trainer/state.json" and spoil is not sparse:
            with contextlib.suppress(Exception):  # where the file has no checksum
                seal(path)
        return ["evaluate", str(base / "run"), "--episodes", "1", "--workers", "1"]

    return make


def declares(**changes: Any) -> Case:
    """A checkpoint whose configuration declares other sizes; keys are `part__key`."""

    def make(base: Path) -> list[str]:
        def spoil(path: Path) -> None:
            tree = yaml.safe_load(path.read_text())
            for key, value in changes.items():
                *parts, last = key.split("__")
                node = tree
                for part in parts:
                    node = node[part]
                node[last] = value
            path.write_text(yaml.safe_dump(tree))

        return of_checkpoint("config.yaml", spoil)(base)

    return make


def header_of(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(length.to_bytes(8, "little") + b"{" * 50) and None


def of_file(name: str, spoil: Callable[[Path], None], *arguments: str) -> Case:
    """arguments: `BASE` in them is the folder."""

    def make(base: Path) -> list[str]:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        spoil(base / name)
        return [argument.replace("BASE", str(base)) for argument in arguments]

    return make


def linked(where: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        outside = path.parent.parent / "outside"
        if where == "pipe":
            os.mkfifo(outside)
        elif where == "file":
            os.replace(path, outside)
        path.unlink(missing_ok=True)
        path.symlink_to(outside if where != "device" else "/dev/zero")

    return spoil


def of_report(name: str, spoil: Callable[[Path], None]) -> Case:
    return of_file(f"finished/{name}", spoil, "report", "BASE/finished")


def promised(path: Path) -> None:
    """An actor whose weights of terabytes are declared and not stored."""
    import h5py

    with h5py.File(path, "w") as file:
        for layer in ("fc0", "fc1", "last_fc", "last_fc_log_std"):
            file.create_dataset(f"metadata/policy/{layer}/weight", (1 << 20, 1 << 20), "f4")
            file.create_dataset(f"metadata/policy/{layer}/bias", (1 << 20,), "f4")


def kinds_of_actor(dtype: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        layers = ("fc0", "fc1", "last_fc", "last_fc_log_std")
        sizes = {
            f"{n}/{part}": shape if part == "weight" else shape[:1]
            for n in layers
            for part in ("weight", "bias")
        }
        save_file({n: torch.zeros(s).to(getattr(torch, dtype)) for n, s in sizes.items()}, path)

    return spoil


def vector(path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 36,)}
        np.lib.format.write_array_header_1_0(file, header)
        size = file.tell()
    os.truncate(path, size + (8 << 36))


IMPORT = ("import", "BASE/theirs", "--output", "BASE/imported")
COLLECT = ("data", "collect", "--env", "Hopper-v4", "--steps", "5", "--output", "BASE/made")
INSPECT = ("data", "inspect")
TRAIN = ("train", "--output", "BASE/trained", "--dataset", "BASE/store")
FEW = {kind: BOMBS[kind] for kind in ("merge keys", "digits", "latin-1")}
CASES: dict[str, Case] = {
    **{
        f"checkpoint {name}: {kind}": of_checkpoint(name, spoil)
        for name in ("config.yaml", "trainer/state.json", "model.safetensors")
        for kind, spoil in SPECIAL.items()
    },
    **{f"checkpoint config: {kind}": of_checkpoint("config.yaml", b) for kind, b in BOMBS.items()},
    **{f"state: {k}": of_checkpoint("trainer/state.json", bomb) for k, bomb in NUMBERS.items()},
    "weights: a long header": of_checkpoint("model.safetensors", header_of(1 << 62)),
    "weights: a header of 90 MB": of_checkpoint("model.safetensors", header_of(90 << 20)),
    "declared: observations": declares(spec__observation_shape=[1 << 40]),
    "declared: frames": declares(spec__observation_shape=[4, 1 << 30, 1 << 30]),
    "declared: actions": declares(spec__action_size=1 << 40),
    "declared: timesteps": declares(spec__max_timestep=1 << 40),
    "declared: layers": declares(policy__backbone__layers=10**9),
    "declared: width": declares(policy__backbone__width=1 << 34),
    "declared: text": declares(spec__action_size="3"),
    **{
        f"--config: {k}": of_file("c.yaml", b, *TRAIN, "--config", "BASE/c.yaml")
        for k, b in (SPECIAL | FEW).items()
    },
    **{
        f"grid: {k}": of_file("g.yaml", b, "sweep", "BASE/g.yaml", "--output", "BASE/swept")
        for k, b in (SPECIAL | FEW).items()
    },
    "grid: seeds": of_file(
        "g.yaml",
        text(f"datasets: [x]\npolicies: {{a: {{}}}}\nseeds: [{'9' * 5000}]"),
        *("sweep", "BASE/g.yaml", "--output", "BASE/swept"),
    ),
    "run config: pipe": of_file("trained/config.yaml", pipe, *TRAIN, "--resume", "must"),
    **{
        f"report {name}: {kind}": of_report(name, spoil)
        for name in ("scores.json", "evaluations.jsonl", "metrics.jsonl", "provenance.json")
        for kind, spoil in (SPECIAL | NUMBERS).items()
    },
    "report temperature": of_report(
        "config.yaml",
        text(
            "{seed: 0, policy: {name: dt}, train: {steps: 7},"
            " evaluation: {episodes: 1, temperature: hot}}"
        ),
    ),
    **{
        f"store header: {k}": of_file("store/header.json", s, *INSPECT, "BASE/store")
        for k, s in (SPECIAL | NUMBERS).items()
    },
    **{
        f"store column: link to a {k}": of_file(
            "store/actions.npy", linked(k), *INSPECT, "BASE/store"
        )
        for k in ("pipe", "device", "file")
    },
    **{
        f"store column: {k}": of_file("store/actions.npy", s, *INSPECT, "BASE/store")
        for k, s in SPECIAL.items()
    },
    **{
        f"minari: {k}": of_file("minari/data/metadata.json", s, *INSPECT, "BASE/minari")
        for k, s in (SPECIAL | NUMBERS).items()
        if k != "folder"
    },
    "a pipe for data": of_file("x.hdf5", pipe, *INSPECT, "BASE/x.hdf5"),
    "a pipe without a name": of_file("x", pipe, *INSPECT, "BASE/x"),
    "the folder above": of_file("n/x", lambda path: os.chdir(path.parent), *INSPECT, ".."),
    "a plot in /proc": of_file("n", text("x"), *INSPECT, "BASE/store", "--plot", "/proc/x.png"),
    **{
        f"import {name}: {kind}": of_file(f"theirs/{name}", spoil, *IMPORT)
        for name in ("config.json", "README.md", "model.safetensors")
        for kind, spoil in SPECIAL.items()
    },
    **{
        f"import config: {k}": of_file("theirs/config.json", b, *IMPORT) for k, b in NUMBERS.items()
    },
    "import statistics: pipe": of_file("m.npy", pipe, *IMPORT, "--state-mean", "BASE/m.npy"),
    "import statistics: sparse": of_file("m.npy", vector, *IMPORT, "--state-mean", "BASE/m.npy"),
    "import statistics: text": of_file("m.txt", sparse, *IMPORT, "--state-mean", "BASE/m.txt"),
    **{
        f"actor: {k}": of_file("a.safetensors", s, *COLLECT, "--policy", "BASE/a.safetensors")
        for k, s in {
            **SPECIAL,
            "long header": header_of(90 << 20),
            "float8": kinds_of_actor("float8_e4m3fn", (4, 4)),
            "bf16": kinds_of_actor("bfloat16", (4, 4)),
            "scalar": kinds_of_actor("float32", ()),
        }.items()
    },
    "actor: promised": of_file("a.hdf5", promised, *COLLECT, "--policy", "BASE/a.hdf5"),
    "actor: pipe in HDF5": of_file("a.hdf5", pipe, *COLLECT, "--policy", "BASE/a.hdf5"),
}


def make_sound(base: Path) -> None:
    """A store, a run with a checkpoint, a finished run, and a folder of transformers."""
    import torch
    from safetensors.torch import save_file

    from decision_seq import checkpoint
    from decision_seq.config import plain, to_tree
    from decision_seq.datasets.store import StoreWriter
    from decision_seq.models.backbones import GPTConfig
    from decision_seq.policies import DecisionTransformerConfig
    from decision_seq.sequences.conditioning import ReturnToGo
    from decision_seq.types import Spec
    from tests.conftest import FACTS, make_episode

    with StoreWriter(base / "store") as writer:
        writer.append(make_episode(30, 0))
        about = {"kind": "test", "description": "a test"}
        writer.finish(
            "toy",
            about,
            env_id="Hopper-v4",
            family="hopper",
            max_episode_steps=1000,
            transitions_in=30,
            has_timeouts=True,
        )
    spec, config = (
        Spec((11,), 3, "continuous", 1, 50),
        DecisionTransformerConfig(5, GPTConfig(1, 1, 8)),
    )
    described = {
        "policy": {"name": "dt", **to_tree(config)},
        "conditioning": {"name": "return", **to_tree(ReturnToGo(1000.0))},
        "spec": plain(spec),
        "data": plain(FACTS),
    }
    tensors = checkpoint.Tensors(config.build(spec).state_dict(), {})
    state: dict[str, Any] = {"topology": {}, "scaler": {}}
    saved = checkpoint.save(base / "run/checkpoints", 7, tensors, described, state)
    (base / "theirs").mkdir()
    save_file({"x": torch.zeros(2)}, base / "theirs/model.safetensors")
    (base / "theirs/config.json").write_text("{}")
    finished = base / "finished"
    finished.mkdir()
    tree = {"seed": 0, "policy": {"name": "dt"}, "train": {"steps": 7}}
    (finished / "config.yaml").write_text(yaml.safe_dump({**tree, "evaluation": {"episodes": 1}}))
    target = {
        "target": 1.0,
        "returns": [1.0],
        "lengths": [1],
        "seed": 0,
        "return_mean": 1.0,
        "return_std": 0.0,
        "normalized_score": 1.0,
        "interval_95": None,
        "episodes": 1,
    }
    scores = {
        "dataset": "toy",
        "source": "a test",
        "env_id": "Hopper-v4",
        "checkpoint": str(saved),
        "targets": [target],
    }
    (finished / "scores.json").write_text(json.dumps(scores))


class Late(BaseException):
    pass


def late(*_: object) -> None:
    raise Late


def run(case: Case, base: Path) -> dict[str, Any]:
    from decision_seq.cli import main

    base.mkdir()
    make_sound(base)
    arguments = case(base)
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(HANGS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: Any = main(arguments)
    except BaseException as error:  # recorded, and the next case runs
        code = f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"code": code, "err": err.getvalue()[-2000:]}


def main_of_child(base: Path) -> None:
    import matplotlib.font_manager  # noqa: F401 (its cache of fonts takes seconds to make)

    import decision_seq.commands.data
    import decision_seq.evaluation
    import decision_seq.report.plots
    import decision_seq.sharing.importing  # noqa: F401

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, hard))
    found = {}
    for number, (name, case) in enumerate(CASES.items()):
        found[name] = run(case, base / str(number))
        (base / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    base = tmp_path_factory.mktemp("small")
    own = {
        "HOME": str(base),
        "DECISION_SEQ_DATA": str(base / "stores"),
        "DECISION_SEQ_OFFLINE": "1",
    }
    own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.test_small_files", str(base)]
    here = Path(__file__).parent.parent
    subprocess.run(command, check=True, env={**os.environ, **own}, cwd=here)
    return json.loads((base / "found.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_one_line_soon(name: str, found: dict[str, dict[str, Any]]) -> None:
    result = found[name]
    assert result["code"] == 2, result
    lines = [line for line in result["err"].splitlines() if line.startswith("decision-seq: ")]
    assert len(lines) == 1, result
    assert "Traceback" not in result["err"]
    assert len(lines[0]) < 1000


if __name__ == "__main__":
    main_of_child(Path(sys.argv[1]))
