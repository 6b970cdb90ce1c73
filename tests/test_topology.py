"""Tests of topology independence: world sizes 1, 2 and 4 and changes between them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from decision_seq import config as configs
from decision_seq.runs.resolve import Config, make_sampler, prepare
from decision_seq.sequences.device import HostSource
from decision_seq.types import Batch, Reporter
from tests.ranks import run_together
from tests.test_distributed import port
from tests.test_train import TINY, command, losses, run_here

BATCH = 16

# A policy that draws random numbers itself.
STOCHASTIC = ("--policy.head", "stochastic")
# A policy with weights outside the optimiser.
CRITIC = (
    *("--policy.name", "tt", "--policy.bins", "8", "--conditioning.name", "outcome"),
    *("--policy.planner.context", "3", "--policy.planner.keep", "2"),
    *("--policy.critic.name", "iql", "--policy.critic.width", "16"),
)
# A policy that reads observations after its windows.
FUTURES = (
    *("--policy.name", "bdt", "--conditioning.name", "none"),
    *("--policy.summary.width", "16", "--policy.summary.dropout", "0"),
    *("--policy.backbone.width", "16", "--policy.backbone.dropout", "0"),
    *("--policy.context_length", "6"),
)


@pytest.fixture
def train(
    tmp_path: Path, write_d4rl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Train the run `name` on `world` processes, to the end or to `steps`."""
    config = tmp_path / "config.yaml"
    tree = {
        **TINY,
        "dataset": str(write_d4rl()),
        "policy": {"context_length": 6, "backbone": {"layers": 2, "width": 16, "dropout": 0.0}},
        "train": {
            **{"batch_size": BATCH, "precision": "fp64", "warmup_steps": 0},
            **{"learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 50, "trackers": []},
        },
    }
    config.write_text(yaml.safe_dump(tree))

    gather = HostSource.batch

    def alone(path: Path, arguments: list[str]) -> None:
        """One process is this one, which has all loaded."""

        def batch(source: HostSource, ids: np.ndarray) -> Batch:
            with open(path, "a") as file:
                file.write(json.dumps(ids.tolist()) + "\n")
            return gather(source, ids)

        monkeypatch.setattr(HostSource, "batch", batch)
        run_here([sys.executable, "-m", "decision_seq", *arguments])

    def train(name: str, world: int, *more: str) -> Path:
        output = tmp_path / name
        arguments = ["train", "--config", str(config), "--output", str(output)]
        if world == 1:
            alone(tmp_path / f"{name}.1.0", [*arguments, *more])
            return output
        arguments += ["--processes", str(world), *more]
        witness = tmp_path / f"{name}.{world}"
        ended = run_together(world, arguments, port(), tmp_path, witness)
        assert ended.codes == [0] * world, ended.said
        return output

    return train


def requested_windows(tmp_path: Path, name: str, world: int) -> np.ndarray:
    """The windows of every update, [steps, BATCH], ranks concatenated in order."""
    files = [tmp_path / f"{name}.{world}.{rank}" for rank in range(world)]
    ranks = [np.array([json.loads(line) for line in f.read_text().splitlines()][1:]) for f in files]
    return np.concatenate(ranks, 1)  # the first line is the window of the cost estimate


@pytest.mark.parametrize(
    ("steps", "worlds", "path"),
    [
        (30, (2,), {10: 2, 30: 1}),
        pytest.param(
            # with uneven shares in between: 16 windows on 3 processes of 2 micro-batches
            *(200, (2, 4), {60: 2, 100: 1, 150: 3, 200: 4}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["short", "long"],
)
def test_the_run_is_the_same_on_any_number_of_processes(
    steps: int,
    worlds: tuple[int, ...],
    path: dict[int, int],
    train: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """path: {updates: processes}; the run is resumed at each change."""
    whole = ["--train.steps", str(steps)]
    alone = losses(train("one", 1, *whole))
    assert len(alone) == steps
    made = configs.load(Config, configs.read_yaml(tmp_path / "config.yaml"))
    sampler = make_sampler(made, prepare(made, Reporter()).store)
    expected = np.stack([sampler.ids(step) for step in range(steps)])
    np.testing.assert_array_equal(requested_windows(tmp_path, "one", 1), expected)
    for world in worlds:
        together = losses(train(f"on{world}", world, *whole))
        np.testing.assert_array_equal(requested_windows(tmp_path, f"on{world}", world), expected)
        assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-9)
    for until, world in path.items():
        more = ["--train.steps", str(until), "--resume", "auto"]
        more += ["--train.accumulation", "2" if world == 3 else "1"]
        moved = train("moving", world, *more)
    assert list(losses(moved).values()) == pytest.approx(list(alone.values()), rel=1e-9)
    *_, before, _ = path
    np.testing.assert_array_equal(requested_windows(tmp_path, "moving", world), expected[before:])
    launches = json.loads((moved / "provenance.json").read_text())
    processes = [launch["machine"]["processes"] for launch in [launches, *launches["resumed"]]]
    assert processes == list(path.values())


@pytest.mark.parametrize(
    "policy",
    [
        STOCHASTIC,
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(CRITIC, marks=pytest.mark.slow),
        pytest.param(FUTURES, marks=pytest.mark.slow),
    ],
    ids=["dt-stochastic", "dt", "tt-critic", "bdt"],
)
def test_sharded_or_not_it_is_the_same_run(
    policy: tuple[str, ...], train: Callable[..., Path], tmp_path: Path
) -> None:
    """A checkpoint of shards goes on whole, and one of whole tensors in shards."""
    whole, config = tmp_path / "one", tmp_path / "config.yaml"
    dataset = configs.read_yaml(config)["dataset"]
    run_here(command(whole, dataset, config, "--train.steps", "20", *policy))
    alone = losses(whole)
    for steps, parallel in (("7", "fsdp"), ("13", "ddp"), ("20", "fsdp")):
        more = ["--train.steps", steps, "--train.parallel", parallel, "--train.accumulation", "2"]
        moved = train("two", 2, *more, *policy, "--resume", "auto")
    assert list(losses(moved).values()) == pytest.approx(list(alone.values()), rel=1e-9)


# A recurrent policy that carries its state over segments, with a burn-in.
CARRIED = (
    *("--policy.backbone", "{name: lstm, width: 16, layers: 2}", "--windows", "segments"),
    *("--policy.burn_in", "2"),
)


@pytest.mark.parametrize("worlds", [(), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_carried_state_is_that_of_the_global_batchs_rows(
    worlds: tuple[int, ...], train: Callable[..., Path]
) -> None:
    """On any number of processes and micro-batches, and moved between them."""
    alone = losses(train("one", 1, "--train.steps", "30", *CARRIED))
    for world in worlds:
        together = losses(train(f"on{world}", world, "--train.steps", "30", *CARRIED))
        assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-9)
    for steps, world, parts in (("7", 1, "3"), ("16", 2, "2"), ("30", 1, "1")):
        more = ["--train.steps", steps, "--train.accumulation", parts, "--resume", "auto"]
        moved = train("moving", world, *more, *CARRIED)
    assert list(losses(moved).values()) == pytest.approx(list(alone.values()), rel=1e-9)
