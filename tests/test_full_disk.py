"""Every command that writes, on a disk that fills up: one line, exit code 2, nothing half-written.

The operating system limits the size of files, which the writers meet as they meet a full disk.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from decision_seq import cli
from decision_seq.datasets.store import EpisodeStore
from decision_seq.report import write_json
from decision_seq.sequences.conditioning import ReturnToGo, label
from decision_seq.training.metrics import Metrics
from decision_seq.types import UserError


@contextmanager
def full(room: int) -> Iterator[None]:
    """Limit files to `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(arguments: list[str], room: int, capsys: pytest.CaptureFixture) -> str:
    with full(room):
        code = cli.main(arguments)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("decision-seq: ")]
    assert code == 2, said.err
    assert len(lines) == 1
    assert "Traceback" not in said.err
    return lines[0]


@pytest.mark.parametrize("room", [0, 100, 2000])
@pytest.mark.parametrize("layout", ["store", "d4rl", "minari", "parquet"])
def test_a_conversion(
    layout: str, room: int, store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out" / "made"
    arguments = ["data", "convert", str(store.path), "--to", layout, "--output", str(output)]
    assert "cannot write" in refused(arguments, room, capsys)
    assert list(output.parent.iterdir()) == []
    assert cli.main(arguments) == 0  # with room again


@pytest.mark.parametrize(
    ("form", "room"),
    [
        ("transformers", 100),
        ("transformers", 5000),
        ("checkpoint", 100),
        ("checkpoint", 5000),
        pytest.param("onnx", 100, marks=pytest.mark.slow),
        pytest.param("onnx", 5000, marks=pytest.mark.slow),  # the exporter takes many seconds
    ],
)
def test_an_export(
    form: str,
    room: int,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    if form == "onnx":
        pytest.importorskip("onnx")
    name = "made.onnx" if form == "onnx" else "made"
    path, output = make_checkpoint(), tmp_path / "out" / name
    arguments = ["export", str(path), "--to", form, "--output", str(output)]
    assert "cannot write" in refused(arguments, room, capsys)
    assert list(output.parent.iterdir()) == []


def test_a_collection(collect_here: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out" / "made"
    arguments = ["data", "collect", "--policy", "uniform", "--env", "Hopper-v4", "--steps", "300"]
    arguments += ["--output", str(output)]
    assert "cannot write the store" in refused(arguments, 2000, capsys)
    assert list(output.parent.iterdir()) == []


def test_a_picture(store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plot = tmp_path / "out" / "plot.png"
    arguments = ["data", "inspect", str(store.path), "--plot", str(plot)]
    assert "cannot draw" in refused(arguments, 2000, capsys)
    assert list(plot.parent.iterdir()) == []


def test_labels_and_json(store: EpisodeStore, tmp_path: Path) -> None:
    before = set(store.path.iterdir())
    with full(100), pytest.raises(UserError, match="cannot save the labels in"):
        label(store, ReturnToGo(10.0))
    assert set(store.path.iterdir()) == before
    with full(100), pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "out" / "scores.json", {"numbers": np.arange(100).tolist()})
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("trackers", [(), ("tensorboard",)])
def test_the_log_of_a_run(trackers: tuple[str, ...], tmp_path: Path) -> None:
    def log() -> None:
        with Metrics(tmp_path, 0, trackers, {}) as metrics:
            for step in range(10_000):
                if trackers:  # only the tracker's file is long
                    metrics.track(step, {f"loss/{step}": 1.0})
                else:
                    metrics.write({"step": step, "loss": 1.0})

    with full(3000), pytest.raises(UserError, match=r"cannot write .*; there is no checkpoint yet"):
        log()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_start_of_a_log(tmp_path: Path) -> None:
    with full(0), pytest.raises(UserError, match="cannot write tensorboard: File too large"):
        Metrics(tmp_path, 0, ("tensorboard",), {})


def test_an_import(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, output = make_checkpoint(), tmp_path / "out" / "made"
    theirs = tmp_path / "theirs"
    assert cli.main(["export", str(path), "--to", "transformers", "--output", str(theirs)]) == 0
    capsys.readouterr()
    arguments = ["import", str(theirs), "--output", str(output)]
    assert "cannot write" in refused(arguments, 2000, capsys)
    assert list(output.parent.iterdir()) == []
