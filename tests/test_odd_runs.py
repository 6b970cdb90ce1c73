"""Tests of odd runs, configurations and environments: one line, nothing lost, nothing half-written.

One process, which has imported everything, forks a child for each case of the table
(`python -m tests.test_odd_runs FOLDER`). A case changes a copy of sound files and runs a command.
"""

import contextlib
import hashlib
import importlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

SECONDS, BYTES = 20, 1_500_000_000
WORLD = "World-v0"  # registered by the import of tests.oddworld
Edit = Callable[[Path], Any]  # changes the copy, whose folder is also the working folder
STEP = "run/checkpoints/step-00000004"
UPDATES = (
    "--train.steps 4 --train.batch_size 4 --train.checkpoint_every 2 --train.warmup_steps 1"
    " --train.trackers [] --evaluation.workers 1 --evaluation.episodes 2"
)
SMALL = (
    f"{UPDATES} --policy.backbone.width 8 --policy.backbone.layers 1 --policy.backbone.heads 1"
    " --policy.context_length 4"
)
HERE = f"--evaluation.env_id {WORLD}"
NEW = f"train --dataset store --output new {SMALL} {HERE}"
RESUME = "train --output run --resume"
EVALUATE = "evaluate run --workers 1 --episodes 2 --json"


class Case(NamedTuple):
    """A command after an edit of its files; `codes` are its right exit codes."""

    command: str
    edit: Edit = lambda base: None
    codes: tuple[int, ...] = (2,)
    again: bool = False
    """Whether the run trains again from a former checkpoint, and rewrites what followed."""


def nothing(base: Path) -> None: ...


def world(fault: str, codes: tuple[int, ...] = (2,), command: str = EVALUATE) -> Case:
    identity = f'tests.oddworld:{WORLD}?{{"fault": "{fault}"}}'
    return Case(f"{command} --env {shlex.quote(identity)}", codes=codes)


def sealed(*keys: Any, name: str = "config.yaml", step: str = STEP) -> Edit:
    """Set a key of a checkpoint's config.yaml, the last of `keys`, and renew the checksums."""

    def edit(base: Path) -> None:
        from tests.conftest import seal

        path = base / step / name
        tree = yaml.safe_load(path.read_text())
        set_in(tree, *keys)
        path.write_text(yaml.safe_dump(tree))
        seal(base / step)

    return edit


def set_in(tree: Any, *keys: Any) -> None:
    *parts, last, value = keys
    for part in parts:
        tree = tree[part]
    if value is KeyError:
        del tree[last]
    else:
        tree[last] = value


def state(*keys: Any) -> Edit:
    def edit(base: Path) -> None:
        path = base / STEP / "trainer/state.json"
        tree = json.loads(path.read_text())
        set_in(tree, *keys)
        path.write_text(json.dumps(tree))

    return edit


def edited(name: str, *keys: Any) -> Edit:
    """Set a key of a YAML or JSON file of the run."""

    def edit(base: Path) -> None:
        path = base / name
        tree = (yaml.safe_load if path.suffix == ".yaml" else json.loads)(path.read_text())
        set_in(tree, *keys)
        path.write_text((yaml.safe_dump if path.suffix == ".yaml" else json.dumps)(tree))

    return edit


def text(name: str, content: str | bytes) -> Edit:
    def edit(base: Path) -> None:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return edit


def replaced(name: str, how: Callable[[Path], Any]) -> Edit:
    def edit(base: Path) -> None:
        path = base / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        how(path)

    return edit


def link(to: str) -> Callable[[Path], Any]:
    return lambda path: path.symlink_to(to)


def cut(name: str) -> Edit:
    return lambda base: os.truncate(base / name, (base / name).stat().st_size // 2)


def both(*edits: Edit) -> Edit:
    return lambda base: [edit(base) for edit in edits]


def mode(name: str, bits: int) -> Edit:
    return lambda base: (base / name).chmod(bits)


def variables(**given: str | None) -> Edit:
    def edit(base: Path) -> None:
        for key, value in given.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value

    return edit


def closed(*numbers: int) -> Edit:
    def edit(base: Path) -> None:
        for number in numbers:
            os.close(number)
        if 0 in numbers:
            sys.stdin = None
        if 1 in numbers:
            sys.stdout = None
        if 2 in numbers:
            sys.stderr = None

    return edit


def later(number: int, seconds: float) -> Edit:
    """Send a signal to this process after some seconds."""

    def edit(base: Path) -> None:
        own = os.getpid()
        if os.fork() == 0:
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(own, number)
            os._exit(0)

    return edit


def at(where: str, number: int) -> Edit:
    """Send a signal to this process as a function `module:name` is called for the first time."""

    def edit(base: Path) -> None:
        module, name = where.split(":")
        owner: Any = importlib.import_module(module)
        *outer, last = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        former = getattr(owner, last)

        def act(*a: Any, **k: Any) -> Any:
            setattr(owner, last, former)
            os.kill(os.getpid(), number)
            return former(*a, **k)

        setattr(owner, last, act)

    return edit


def grid(**keys: Any) -> Edit:
    tree = {"datasets": ["store"], "policies": {"a": {}}, "seeds": [0], **keys}
    return text("g.yaml", yaml.safe_dump(tree))


def key(name: str, value: Any, codes: tuple[int, ...] = (2,)) -> Case:
    return Case(f"{NEW} --{name} {shlex.quote(str(value))}", codes=codes)


OK = (0,)
ANY = (0, 2)
SWEEP = "sweep g.yaml --output swept --dry-run"
REPORT = "report run --json"
CALIBRATE = "evaluate run --workers 1 --calibrate 2 --episodes 1"
CASES: dict[str, Case] = {
    # Runs' folders
    "sound": Case(EVALUATE, codes=OK),
    "evaluations: a text for a mean": Case(
        RESUME, text("run/evaluations.jsonl", '{"step": 4, "targets": "x"}\n'), ANY
    ),
    "evaluations: returns as text": Case(
        REPORT,
        text(
            "run/evaluations.jsonl",
            '{"step": 4, "targets": [{"return_mean": "1", "target": "x"}]}\n',
        ),
        ANY,
    ),
    "metrics: another run's": Case(
        RESUME, text("run/metrics.jsonl", '{"step": 900, "loss": 1}\n{"step": 1}\n'), ANY
    ),
    "metrics: loss as a list": Case(
        REPORT, text("run/metrics.jsonl", '{"step": 4, "loss": [1]}\n'), ANY
    ),
    "scores: returns NaN": Case(
        REPORT, edited("run/scores.json", "targets", 0, "returns", [float("nan"), 1.0])
    ),
    "scores: returns missing": Case(
        REPORT, edited("run/scores.json", "targets", 0, "returns", KeyError)
    ),
    "scores: no targets": Case(REPORT, edited("run/scores.json", "targets", []), ANY),
    "scores: mean a text": Case(
        REPORT, edited("run/scores.json", "targets", 0, "return_mean", "9")
    ),
    "scores: interval of one": Case(
        REPORT, edited("run/scores.json", "targets", 0, "interval_95", [1]), ANY
    ),
    "scores: returns nested": Case(
        REPORT, edited("run/scores.json", "targets", 0, "returns", [[1.0], [2.0]])
    ),
    "scores: huge": Case(
        REPORT, edited("run/scores.json", "targets", 0, "returns", [1e308, 1e308]), ANY
    ),
    "scores: another dataset": Case(REPORT, edited("run/scores.json", "dataset", None), ANY),
    "scores: notes a text": Case(REPORT, edited("run/scores.json", "notes", {"a": 1}), ANY),
    "scores: more keys": Case(REPORT, edited("run/scores.json", "colour", "red"), ANY),
    "scores: env a number": Case(REPORT, edited("run/scores.json", "env_id", 5), ANY),
    "scores: a list": Case(REPORT, text("run/scores.json", "[1, 2]")),
    "scores: cut": Case(REPORT, cut("run/scores.json")),
    "scores: empty": Case(REPORT, text("run/scores.json", "")),
    "provenance: a list": Case(REPORT, text("run/provenance.json", "[]"), ANY),
    "provenance: null parts": Case(
        REPORT, text("run/provenance.json", '{"data": null, "launches": 4}'), ANY
    ),
    "provenance: emptied": Case(RESUME, text("run/provenance.json", ""), ANY),
    "provenance: list on resume": Case(
        RESUME, text("run/provenance.json", '{"launches": "x"}'), ANY
    ),
    "run config: no policy": Case(REPORT, edited("run/config.yaml", "policy", KeyError), ANY),
    "run config: policy a text": Case(REPORT, edited("run/config.yaml", "policy", "dt"), ANY),
    "run config: a list": Case(REPORT, text("run/config.yaml", "[1]"), ANY),
    "run config: seed a text": Case(REPORT, edited("run/config.yaml", "seed", "one"), ANY),
    "run config: method a list": Case(REPORT, edited("run/config.yaml", "method", ["a"]), ANY),
    "run config: evaluation a list": Case(EVALUATE, edited("run/config.yaml", "evaluation", [1])),
    "run config: targets a text": Case(
        EVALUATE, edited("run/config.yaml", "evaluation", "targets", "max")
    ),
    "run config: empty": Case(EVALUATE, text("run/config.yaml", ""), ANY),
    "run config: another's": Case(RESUME, edited("run/config.yaml", "dataset", "bc")),
    "checkpoints is a file": Case(RESUME, replaced("run/checkpoints", lambda p: p.write_text("x"))),
    "checkpoints is a pipe": Case(EVALUATE, replaced("run/checkpoints", os.mkfifo)),
    "checkpoints is a link out": Case(
        RESUME, replaced("run/checkpoints", link("../bc/checkpoints"))
    ),
    "checkpoint of another run": Case(
        RESUME,
        lambda b: (
            shutil.rmtree(b / STEP),
            shutil.copytree(b / STEP.replace("run", "bc"), b / STEP),
        ),
    ),
    "a checkpoint of a huge number": Case(
        RESUME,
        lambda b: shutil.copytree(b / STEP, b / f"run/checkpoints/step-{'9' * 30}"),
        ANY,
        True,
    ),
    "a checkpoint of no number": Case(
        RESUME, lambda b: shutil.copytree(b / STEP, b / "run/checkpoints/step-²"), ANY
    ),
    "best: NaN": Case(EVALUATE, text("run/best.json", '{"step": 4, "return_mean": NaN}'), ANY),
    "best: a folder": Case(EVALUATE, lambda b: (b / "run/best.json").mkdir(), ANY),
    "lock is a folder": Case(RESUME, replaced("run/.lock", lambda p: p.mkdir()), ANY),
    "lock is a pipe": Case(RESUME, replaced("run/.lock", os.mkfifo), ANY),
    "lock is a link out": Case(RESUME, replaced("run/.lock", link("../bc/config.yaml")), ANY),
    "run is a link": Case(
        EVALUATE, lambda b: (os.rename(b / "run", b / "r"), (b / "run").symlink_to("r")), OK
    ),
    "run is a loop": Case(EVALUATE, replaced("run", link("run"))),
    "offline: a pipe": Case(REPORT, lambda b: os.mkfifo(b / "run/offline.json"), ANY),
    "calibration: a folder": Case(
        "evaluate run --workers 1 --calibrate 2 --episodes 1",
        lambda b: (b / "run/calibration.json").mkdir(),
    ),
    "scores: a folder": Case(RESUME, replaced("run/scores.json", lambda p: p.mkdir())),
    "config: a folder": Case(RESUME, replaced("run/config.yaml", lambda p: p.mkdir())),
    # Checkpoints with other settings
    "resealed: no such policy": Case(EVALUATE, sealed("policy", "name", "oracle")),
    "resealed: policy a list": Case(EVALUATE, sealed("policy", [])),
    "resealed: no policy": Case(EVALUATE, sealed("policy", KeyError)),
    "resealed: no spec": Case(EVALUATE, sealed("spec", KeyError)),
    "resealed: spec null": Case(EVALUATE, sealed("spec", None)),
    "resealed: no data": Case(EVALUATE, sealed("data", KeyError)),
    "resealed: no conditioning": Case(EVALUATE, sealed("conditioning", KeyError)),
    "resealed: unknown conditioning": Case(EVALUATE, sealed("conditioning", "name", "luck")),
    "resealed: scale zero": Case(EVALUATE, sealed("conditioning", "scale", 0)),
    "resealed: scale NaN": Case(EVALUATE, sealed("conditioning", "scale", float("nan"))),
    "resealed: scale tiny": Case(EVALUATE, sealed("conditioning", "scale", 1e-320), ANY),
    "resealed: another conditioning": Case(EVALUATE, sealed("conditioning", {"name": "none"})),
    "resealed: range of one": Case(EVALUATE, sealed("spec", "action_range", [[0.0], [1.0]])),
    "resealed: range NaN": Case(
        EVALUATE, sealed("spec", "action_range", [[float("nan")] * 2, [1.0] * 2])
    ),
    "resealed: range crossed": Case(
        EVALUATE, sealed("spec", "action_range", [[1.0] * 2, [-1.0] * 2])
    ),
    "resealed: range a text": Case(EVALUATE, sealed("spec", "action_range", "wide")),
    "resealed: range huge": Case(
        EVALUATE, sealed("spec", "action_range", [[-1e308] * 2, [1e308] * 2]), ANY
    ),
    "resealed: range ints": Case(
        EVALUATE, sealed("spec", "action_range", [[-(10**400)] * 2, [1] * 2])
    ),
    "resealed: first choice": Case(EVALUATE, sealed("spec", "first_choice", 3)),
    "resealed: first choice text": Case(EVALUATE, sealed("spec", "first_choice", "x")),
    "resealed: kind": Case(EVALUATE, sealed("spec", "action_kind", "quantum")),
    "resealed: discrete": Case(EVALUATE, sealed("spec", "action_kind", "discrete")),
    "resealed: negative size": Case(EVALUATE, sealed("spec", "action_size", -2)),
    "resealed: zero observations": Case(EVALUATE, sealed("spec", "observation_shape", [])),
    "resealed: negative observations": Case(EVALUATE, sealed("spec", "observation_shape", [-3])),
    "resealed: timestep -1": Case(EVALUATE, sealed("spec", "max_timestep", -1)),
    "resealed: timestep 0.5": Case(EVALUATE, sealed("spec", "max_timestep", 0.5)),
    "resealed: condition size": Case(EVALUATE, sealed("spec", "condition_size", 0)),
    "resealed: another spec key": Case(EVALUATE, sealed("spec", "colour", 1)),
    "resealed: heads": Case(EVALUATE, sealed("policy", "backbone", "heads", 3)),
    "resealed: heads 0": Case(EVALUATE, sealed("policy", "backbone", "heads", 0)),
    "resealed: context 0": Case(EVALUATE, sealed("policy", "context_length", 0)),
    "resealed: context huge": Case(EVALUATE, sealed("policy", "context_length", 10**9), ANY),
    "resealed: dropout": Case(EVALUATE, sealed("policy", "backbone", "dropout", 7)),
    "resealed: env null": Case(
        EVALUATE,
        both(
            sealed("data", "env_id", None), edited("run/config.yaml", "evaluation", "env_id", None)
        ),
    ),
    "resealed: percentiles": Case(
        f"{EVALUATE} --target max", sealed("data", "return_percentiles", [])
    ),
    "resealed: percentiles NaN": Case(
        f"{EVALUATE} --target max", sealed("data", "return_percentiles", [float("nan")] * 101)
    ),
    "resealed: percentiles text": Case(
        f"{EVALUATE} --target q7", sealed("data", "return_percentiles", ["a"] * 101)
    ),
    "resealed: percentiles null": Case(
        "evaluate run --workers 1 --calibrate 3 --episodes 1",
        sealed("data", "return_percentiles", None),
    ),
    "resealed: references equal": Case(
        EVALUATE, sealed("data", "reference_scores", [1.0, 1.0]), ANY
    ),
    "resealed: references one": Case(EVALUATE, sealed("data", "reference_scores", [1.0])),
    "resealed: references text": Case(EVALUATE, sealed("data", "reference_scores", ["a", "b"])),
    "resealed: notes": Case(EVALUATE, sealed("data", "notes", 5), ANY),
    "resealed: targets": Case(EVALUATE, sealed("data", "targets", ["x"]), ANY),
    "resealed: delayed": Case(EVALUATE, sealed("data", "delayed", "perhaps"), ANY),
    "resealed: dataset a number": Case("evaluate run --offline", sealed("data", "dataset", 5)),
    "resealed: dataset gone": Case(
        "evaluate run --offline", edited("run/config.yaml", "dataset", "/no/such"), ANY
    ),
    "resealed: planner": Case("evaluate tt --planner beams=0", codes=(2,)),
    "planner: NaN": Case("evaluate tt --planner discount=nan"),
    "planner: huge": Case("evaluate tt --planner beams=1000000000000 --workers 1 --episodes 1"),
    "planner: horizon huge": Case(
        "evaluate tt --planner horizon=1000000000000 --workers 1 --episodes 1"
    ),
    "planner: list": Case("evaluate tt --planner beams=[1]"),
    "resealed planner: text": Case(
        "evaluate tt --workers 1 --episodes 1",
        sealed("policy", "planner", "beams", "many", step=STEP.replace("run", "tt")),
    ),
    "resealed planner: null": Case(
        "evaluate tt --workers 1 --episodes 1",
        sealed("policy", "planner", None, step=STEP.replace("run", "tt")),
    ),
    "resealed planner: expand": Case(
        "evaluate tt --workers 1 --episodes 1",
        sealed("policy", "planner", "expand", -1, step=STEP.replace("run", "tt")),
    ),
    "resealed: bins": Case(
        "evaluate tt --workers 1 --episodes 1",
        sealed("policy", "bins", 10**12, step=STEP.replace("run", "tt")),
    ),
    "state: step a bool": Case(RESUME, state("step", True), ANY, True),
    "state: sums a list": Case(EVALUATE, state("sha256", ["x"]), ANY),
    "state: sums of numbers": Case(EVALUATE, state("sha256", "model.safetensors", 5), ANY),
    "state: sums of paths": Case(
        EVALUATE, state("sha256", "../../../../etc/passwd", "0" * 64), ANY
    ),
    "state: scaler text": Case(RESUME, state("scaler", "scale"), ANY, True),
    # Configurations
    "steps -0": key("train.steps", "-0"),
    "batch huge": key("train.batch_size", 2**31 - 1),
    "rate inf": key("train.learning_rate", ".inf"),
    "rate 1e308": key("train.learning_rate", "1e308"),
    "clip tiny": key("train.clip", "5e-324", ANY),
    "betas one": key("train.betas", "[0.9]"),
    "betas text": key("train.betas", "[a, b]"),
    "betas nested": key("train.betas", "[[0.9], [0.99]]"),
    "floor null": key("train.floor", "null"),
    "policy null": key("policy", "null"),
    "policy list": key("policy", "[]"),
    "backbone text": key("policy.backbone", "gpt", ANY),
    "backbone unknown": key("policy.backbone.name", "abacus"),
    "auxiliary text": key("policy.auxiliary", "x"),
    "auxiliary unknown": key("policy.auxiliary", "[{name: x}]"),
    "segments with dt": key("windows", "segments", ANY),
    "segments with dt (name)": key("windows.name", "segments"),
    "action scale": key("policy.action_scale", "[1]"),
    "max steps 0": key("evaluation.max_episode_steps", 0),
    "max steps -1": key("evaluation.max_episode_steps", -1),
    "max steps 10^18": key("evaluation.max_episode_steps", 10**18, OK),
    "max steps 10^19": key("evaluation.max_episode_steps", 10**19, ANY),
    "seed 2^64": key("evaluation.seed", 2**64),
    "seed 2^32": key("evaluation.seed", 2**32 - 1, ANY),
    "seed -1": key("seed", -1),
    "seed 10^30": Case(f"{NEW} --seed {10**30}"),
    "seed 2^64 (train)": Case(f"{NEW} --seed {2**64}"),
    "targets NaN": key("evaluation.targets", "[.nan]"),
    "targets empty text": key("evaluation.targets", "['']"),
    "targets nested": key("evaluation.targets", "[[1]]"),
    "targets q101": key("evaluation.targets", "[q101]"),
    "targets true": key("evaluation.targets", "[true]"),
    "env a list": key("evaluation.env_id", "[World-v0]"),
    "env unicode": key("evaluation.env_id", "Wörld-v0"),
    "env zero": key("evaluation.env_id", "'a\0b'"),
    "env empty": key("evaluation.env_id", "''", ANY),
    "held out negative": key("held_out", -0.1),
    "held out all": key("held_out", 1.0),
    "held out huge": key("held_out", 1e9),
    "conditioning unknown": key("conditioning.name", "luck"),
    "conditioning scale 0": key("conditioning.scale", 0),
    "dotted": key("train..steps", 5),
    "dots alone": key("...", 5),
    "a key of a value": key("seed.x", 5),
    "a value of keys": key("train", 5),
    "surrogate in config": Case(
        f"{NEW} --config c.yaml", text("c.yaml", 'dataset: "\\uD800"'), ANY
    ),
    "surrogate in method": Case(
        f"{NEW} --config c.yaml", text("c.yaml", 'method: "a\\uD800"'), ANY
    ),
    "zero in dataset": Case(f"train --dataset 'a\0b' --output new {SMALL} {HERE}"),
    "keys of numbers": Case(f"{NEW} --config c.yaml", text("c.yaml", "{1: 2, null: 3}")),
    "a date": Case(f"{NEW} --config c.yaml", text("c.yaml", "evaluation: {seed: 2020-01-01}")),
    "binary": Case(f"{NEW} --config c.yaml", text("c.yaml", "method: !!binary aGVsbG8="), ANY),
    "python tag": Case(
        f"{NEW} --config c.yaml", text("c.yaml", "seed: !!python/object/apply:os.system ['true']")
    ),
    "two documents": Case(f"{NEW} --config c.yaml", text("c.yaml", "seed: 1\n---\nseed: 2\n")),
    "utf-16": Case(f"{NEW} --config c.yaml", text("c.yaml", "seed: 1".encode("utf-16")), ANY),
    "dataset is the output": Case(f"train --dataset store --output store {SMALL} {HERE}"),
    "output in the store": Case(
        f"train --dataset store --output store/run {SMALL} {HERE}", codes=ANY
    ),
    "output in a checkpoint": Case(
        f"train --dataset store --output {STEP}/new {SMALL} {HERE}", codes=ANY
    ),
    "recipe a folder": Case(f"{NEW} --config ."),
    # Grids
    "grid: a": Case(SWEEP, grid(), OK),
    "grid: a policy null": Case(SWEEP, grid(policies={"a": None}), ANY),
    "grid: a policy text": Case(SWEEP, grid(policies={"a": "dt"})),
    "grid: a policy's name": Case(SWEEP, grid(policies={"../a": {}})),
    "grid: policies a list": Case(SWEEP, grid(policies=["a"])),
    "grid: seeds negative": Case(SWEEP, grid(seeds=[-1])),
    "grid: seeds bools": Case(SWEEP, grid(seeds=[True])),
    "grid: seeds twice": Case(SWEEP, grid(seeds=[1, 1])),
    "grid: dataset null": Case(SWEEP, grid(datasets=[None])),
    "grid: set text": Case(SWEEP, grid(set="x")),
    "grid: set seed": Case(SWEEP, grid(set={"seed": 4})),
    "grid: set env": Case(SWEEP, grid(set={"evaluation": {"env_id": 7}}), ANY),
    "grid: config a list": Case(SWEEP, grid(config=["dt/gym"])),
    "grid: jobs": Case("sweep g.yaml --output swept --jobs 0", grid()),
    "grid: output a file": Case("sweep g.yaml --output g.yaml", grid()),
    "grid: set a key of none": Case(f"{SWEEP} --set =5", grid()),
    "grid: sbatch": Case(f"{SWEEP} --sbatch x=1", grid(), ANY),
    "grid: time": Case(f"{SWEEP} --time -5", grid(), ANY),
    # Environments
    **{
        fault: world(fault)
        for fault in (
            "no space",
            "tuple",
            "complex",
            "no observations",
            "list of observations",
            "exit when made",
            "action space raises",
            "space changes",
            "reset alone",
            "reset none",
            "another shape",
            "matrix",
            "seen none",
            "seen text",
            "seen objects",
            "seen complex",
            "seen dict",
            "ragged",
            "reward text",
            "reward whole",
            "reward complex",
            "reward empty",
            "ended array",
            "ended text",
            "ended nan",
            "ended none",
            "four",
            "step none",
            "exit",
            "exit text",
            "generator exit",
            "stop iteration",
            "memory",
            "long words",
            "word raises",
        )
    },
    **{
        fault: world(fault, ANY)
        for fault in (
            "crossed",
            "nan bounds",
            "leave the folder",
            "remove the folder",
            "actions change",
            "reset info none",
            "seen huge",
            "seen a list",
            "reward huge",
            "reward bool",
            "info none",
            "writes to action",
            "noisy",
            "seed",
            "grad",
            "errors",
            "close raises",
            "thread",
        )
    },
    "environment aborts": world("abort", (7,)),
    "environment closes stdout": world("close stdout", (0, 1, 2)),
    **{
        f"two processes: {fault}": world(fault, codes, "evaluate run --workers 2 --episodes 9")
        for fault, codes in {"exit": (2,), "word raises": (2,)}.items()
    },
    **{
        f"trained: {fault}": Case(
            f"{NEW} --evaluation.env_id " + shlex.quote(f"""'{WORLD}?{{"fault": "{fault}"}}'"""),
            codes=ANY,
        )
        for fault in (
            "exit when made",
            "step none",
            "close raises",
            "grad",
            "seed",
            "leave the folder",
        )
    },
    **{
        fault: world(fault, ANY, "evaluate run --workers 1 --episodes 1 --video films")
        for fault in (
            "film none",
            "film text",
            "film floats",
            "film empty",
            "film changes",
            "film grey",
        )
    },
    "import exits": Case(
        f"{EVALUATE} --env quits:World-v0", text("quits.py", "raise SystemExit(3)")
    ),
    "import interrupts": Case(
        f"{EVALUATE} --env quits:World-v0", text("quits.py", "raise KeyboardInterrupt"), (2, 130)
    ),
    "import is no Python": Case(f"{EVALUATE} --env quits:World-v0", text("quits.py", "\0\1\2")),
    "import recurs": Case(
        f"{EVALUATE} --env quits:World-v0", text("quits.py", "def f(): f()\nf()")
    ),
    "import is a folder": Case(
        f"{EVALUATE} --env quits:World-v0", lambda b: (b / "quits").mkdir(), ANY
    ),
    # Other verbs
    "match: no such target": Case("match run --mixture 0,99 --episodes 1 --workers 1 --json"),
    "match: shares NaN": Case("match run --histogram h.json", text("h.json", "[NaN, 1]")),
    "match: shares text": Case("match run --histogram h.json", text("h.json", '["a"]')),
    "match: a dimension": Case("match run --feature 99 --episodes 1 --workers 1"),
    "match: targets 0": Case("match run --targets 0"),
    "match: output is the store": Case("match run --output store/header.json"),
    "predict: of a dt": Case("predict run"),
    "predict: steps": Case("predict tt --steps 0"),
    "predict: samples": Case("predict tt --samples 1000000000000 --steps 2 --episodes 1"),
    "predict: steps huge": Case("predict tt --steps 1000000000000 --samples 1 --episodes 1"),
    "predict: seed": Case("predict tt --seed -1"),
    "explain: of a dt": Case("explain run"),
    "explain: episodes": Case("explain run --episodes 1000000000000000"),
    "doctor: odd": Case(
        "doctor --dataset store --output new --json --train.steps 4 --policy.backbone.heads 3"
    ),
    "doctor: threads": Case(
        "doctor --dataset store --json", variables(OMP_NUM_THREADS="many"), ANY
    ),
    "bench: a file": Case("bench evaluate store/header.json"),
    "bench: planner of a dt": Case("bench evaluate run --episodes 0"),
    "report: a file": Case("report store/header.json"),
    "report: nothing": Case("report store"),
    "report: into a run": Case("report run bc --output run", codes=ANY),
    "report: into scores": Case("report run --output run/scores.json"),
    "report: twice": Case("report run run ./run --json", codes=ANY),
    "report: the mother": Case("report .. --json", codes=ANY),
    "offline: nothing held out": Case("evaluate run --offline --json"),
    "offline: another store": Case("evaluate held --offline --json --dataset other"),
    "offline: held": Case("evaluate held --offline --json", codes=OK),
    "calibrate: into a checkpoint": Case(
        f"evaluate run --workers 1 --calibrate 2 --episodes 1 --output {STEP}", codes=ANY
    ),
    "calibrate: JSON": Case("evaluate run --workers 1 --calibrate 2 --episodes 1 --json", codes=OK),
    "video: into the checkpoint's file": Case(
        f"evaluate run --episodes 1 --video {STEP}/config.yaml"
    ),
    # Systems
    "RANK text": Case(RESUME, variables(RANK="one", WORLD_SIZE="1"), ANY),
    "RANK beyond": Case(
        RESUME,
        variables(
            RANK="7", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1", LOCAL_RANK="7"
        ),
    ),
    "WORLD_SIZE 0": Case(RESUME, variables(RANK="0", WORLD_SIZE="0"), ANY),
    "WORLD_SIZE -1": Case(RESUME, variables(RANK="0", WORLD_SIZE="-1", MASTER_ADDR="x"), ANY),
    "LOCAL_RANK text": Case(RESUME, variables(LOCAL_RANK="x"), ANY),
    "RANK of evaluate": Case(EVALUATE, variables(RANK="²"), ANY),
    "OMP_NUM_THREADS 0": Case(EVALUATE, variables(OMP_NUM_THREADS="0"), OK),
    "OMP_NUM_THREADS text": Case(EVALUATE, variables(OMP_NUM_THREADS="²"), OK),
    "COLUMNS text": Case("report run", variables(COLUMNS="wide", TERM="\x1b[2J", LINES="-1"), OK),
    "COLUMNS -5": Case("evaluate run --workers 1 --episodes 1", variables(COLUMNS="-5"), OK),
    "help in COLUMNS": Case("train --help", variables(COLUMNS="²"), OK),
    "TMPDIR missing": Case("report run --output new", variables(TMPDIR="/no/such"), OK),
    "HOME empty": Case(RESUME, variables(HOME=""), ANY),
    "data nowhere": Case(NEW, variables(DECISION_SEQ_DATA="/proc/x"), ANY),
    "data empty": Case(NEW, variables(DECISION_SEQ_DATA=""), ANY),
    "device text": Case(f"{EVALUATE} --device 'cpu:x'"),
    "device meta": Case(f"{EVALUATE} --device meta"),
    "no stdin": Case(EVALUATE, closed(0), OK),
    "no stdout": Case(EVALUATE, closed(1), ANY),
    "no stderr": Case(EVALUATE, closed(2), OK),
    "nothing open": Case(RESUME, closed(0, 1, 2), ANY),
    "few files": Case(RESUME, lambda b: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)), ANY),
    "no processes": Case(
        "evaluate run --workers 2 --episodes 9",
        lambda b: resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14)),
        ANY,
    ),
    "file size": Case(
        NEW,
        lambda b: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)),
        ),
        ANY,
    ),
    "stack": Case(EVALUATE, lambda b: sys.setrecursionlimit(160), ANY),
    **{
        f"signal {number} in {where}": Case(command, at(where, number), (128 + number,))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for where, command in {
            "decision_seq.checkpoint:save": f"{NEW}",
            "decision_seq.evaluation.checkpoints:load": EVALUATE,
            "decision_seq.report.plots:plot_calibration": CALIBRATE,
        }.items()
    },
    "signal in writing": Case(
        "evaluate run --workers 1 --calibrate 2 --episodes 1 --output new",
        at("os:replace", signal.SIGTERM),
        (143, 0),
    ),
    "signal in the config": Case(
        NEW, at("decision_seq.runs.experiment:save_text", signal.SIGINT), (130,)
    ),
}


def make_sound(base: Path) -> None:
    """A store, and runs: a Decision Transformer, cloning, a Trajectory Transformer."""
    from decision_seq.cli import main
    from decision_seq.datasets.store import StoreWriter
    from tests.conftest import make_episode

    for name, seed in (("store", 0), ("other", 50)):
        with StoreWriter(base / name) as writer:
            for i in range(8):
                writer.append(make_episode(9 + i % 3, seed + i, sizes=(3, 2)))
            about = {"kind": "test", "description": f"a test {name}"}
            writer.finish(
                name,
                about,
                env_id=None,
                family=None,
                max_episode_steps=20,
                transitions_in=79,
                has_timeouts=True,
            )
    os.chdir(base)
    runs = {
        "run": SMALL,
        "bc": f"--config bc/gym {UPDATES}",
        "held": f"--held_out 0.25 {SMALL}",
        "tt": f"--config tt/gym {SMALL} --policy.bins 4 --policy.planner.beams 4"
        " --policy.planner.horizon 2 --policy.planner.context 2 --policy.planner.keep 2",
    }
    for name, options in runs.items():
        command = f"train --dataset store --output {name} {options}"
        if code := main(shlex.split(f"{command} --evaluation.env_id {WORLD}")):
            raise RuntimeError(f"{name}: {code}")


KEPT = ("run", "bc", "tt", "held", "store")


def contents(base: Path) -> dict[str, str]:
    """The files of the runs that may not be lost, and their digests."""
    found = {}
    for top in KEPT:
        for folder, _, names in os.walk(base / top):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and ("checkpoints" in path.parts or name in ("scores.json",)):
                    found[str(path.relative_to(base))] = hashlib.md5(path.read_bytes()).hexdigest()
    return found


def run(case: Case, base: Path) -> dict[str, Any]:
    """Run a case in a fork of this process."""
    out, err = base / "OUT", base / "ERR"
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(base)
            for number, path in ((1, out), (2, err)):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            case.edit(base)
            before = contents(base)
            os.write(writing, json.dumps(before).encode())
            os.close(writing)
            from decision_seq.cli import main

            code = main(shlex.split(case.command))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 98
        except BaseException:
            import traceback

            with contextlib.suppress(Exception):
                traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as pipe:
        before = json.loads(pipe.read() or "{}")
    limit = time.monotonic() + 3 * SECONDS
    status: Any = None
    while time.monotonic() < limit:
        pid, waited, _ = os.wait4(child, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(waited)
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        status = "hang"
    return {
        "code": status,
        "out": out.read_text(errors="replace")[:200_000],
        "err": err.read_text(errors="replace")[-4000:],
        "lost": lost(base, before),
        "left": [str(p.relative_to(base)) for p in base.rglob("*partial*")],
        "seconds": round(time.perf_counter() - started, 2),
    }


def lost(base: Path, before: dict[str, str]) -> list[str]:
    """What was there before the command, and is not, or is another."""
    found = contents(base)
    return [name for name, digest in before.items() if found.get(name) != digest]


def faults(case: Case, result: dict[str, Any]) -> list[str]:
    """What is wrong with the result of a case."""
    found = []
    code = result["code"]
    if code not in case.codes:
        found.append(f"exit code {code}")
    if "Traceback" in result["err"]:
        found.append("traceback")
    lines = [line for line in result["err"].splitlines() if line.startswith("decision-seq: ")]
    usage = [line for line in result["err"].splitlines() if ": error: " in line]
    told = not case.command.startswith("doctor") and result["err"]  # doctor prints a table
    if code == 2 and len(lines) + len(usage) != 1 and told:
        found.append(f"{len(lines)} lines")
    if any(len(line) > 1000 for line in lines):
        found.append("a long line")
    if result["lost"] and not case.again:
        found.append(f"lost {result['lost']}")
    if result["left"]:
        found.append(f"left {result['left']}")
    if "--json" in case.command and code == 0 and result["out"]:
        try:
            json.loads(result["out"], parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            found.append("no JSON")
    return found


IMPORTED = (
    *("decision_seq.commands.data", "decision_seq.evaluation.video", "decision_seq.report.plots"),
    *("decision_seq.sharing.importing", "decision_seq.sweep", "tests.oddworld"),
)


def main_of_child(base: Path) -> None:
    for name in IMPORTED:  # so that no fork has to
        importlib.import_module(name)
    sound = base / "sound"
    sound.mkdir()
    make_sound(sound)
    os.chdir(base)
    results = {}
    for number, (name, case) in enumerate(CASES.items()):
        folder = base / str(number)
        shutil.copytree(sound, folder)
        results[name] = run(case, folder)
        shutil.rmtree(folder, ignore_errors=True)
        (base / "found.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    base = tmp_path_factory.mktemp("odd")
    own = {"HOME": str(base), "DECISION_SEQ_DATA": str(base / "stores")}
    own |= {"DECISION_SEQ_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.test_odd_runs", str(base)]
    here = Path(__file__).parent.parent
    subprocess.run(command, check=True, env={**os.environ, **own}, cwd=here, capture_output=True)
    return json.loads((base / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_lost(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert faults(CASES[name], found[name]) == [], found[name]


if __name__ == "__main__":
    main_of_child(Path(sys.argv[1]))
