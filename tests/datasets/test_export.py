"""Tests of exports: every layout reads back into identical arrays."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from decision_seq.cli import main
from decision_seq.datasets import open_dataset
from decision_seq.datasets.export import LAYOUTS, convert
from decision_seq.datasets.store import EpisodeStore, StoreWriter
from decision_seq.types import Reporter, UserError
from tests.conftest import make_episode

NAMES = {"d4rl": "hopper-medium.hdf5", "minari": "minari", "parquet": "hopper", "store": "hopper"}


def test_every_layout_is_tried() -> None:
    assert LAYOUTS.keys() == {*NAMES, "dqn-replay"}  # only frames: see `test_replay`


ENDS = [(True, False), (False, False), (False, True), (False, False)]


@pytest.fixture(params=["with finals", "without finals", "discrete"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> EpisodeStore:
    """Episodes with all three endings; unfinished ones in the middle and at the end."""
    final = request.param != "without finals"
    with StoreWriter(tmp_path / "mixed") as writer:
        for index, (terminated, truncated) in enumerate(ENDS):
            episode = make_episode(20 + index, index, final=final)
            episode.rewards[0] = 1e-9 * index
            actions = episode.actions
            if request.param == "discrete":
                actions = (actions[:, 0] > 0).astype(np.int64)
            ends = {"terminated": terminated, "truncated": truncated}
            writer.append(replace(episode, actions=actions, **ends))
        return writer.finish(
            "hopper-mixed",
            {"kind": "test", "description": "a test's data"},
            env_id=None if request.param == "discrete" else "Hopper-v4",
            family=None if request.param == "discrete" else "hopper",
            max_episode_steps=1000,
            transitions_in=86,
            has_timeouts=True,
        )


def reopened(layout: str, output: Path) -> EpisodeStore:
    if layout == "minari":
        (output,) = [file.parent.parent for file in output.glob("**/data/metadata.json")]
    return open_dataset(str(output))


@pytest.mark.parametrize("layout", NAMES)
def test_a_round_trip_changes_nothing(layout: str, mixed: EpisodeStore, tmp_path: Path) -> None:
    output = tmp_path / "out" / NAMES[layout]
    convert(mixed, layout, output, Reporter())
    back = reopened(layout, output)
    assert back.checksum == mixed.checksum
    assert back.columns.keys() == mixed.columns.keys()
    for name, column in mixed.columns.items():
        np.testing.assert_array_equal(back.columns[name].array, column.array)
    for flag in ("offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(back, flag), getattr(mixed, flag))
    for key in ("env_id", "family"):
        assert back.header[key] == mixed.header[key]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_blocks_do_not_show(
    mixed: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decision_seq.datasets.export.BLOCK_ROWS", 7)
    convert(mixed, "d4rl", tmp_path / "hopper.hdf5", Reporter())
    assert open_dataset(str(tmp_path / "hopper.hdf5")).checksum == mixed.checksum


def test_other_readers_of_d4rl_find_its_layout(mixed: EpisodeStore, tmp_path: Path) -> None:
    """By D4RL's rule, an episode ends where `terminals` or `timeouts` is set."""
    convert(mixed, "d4rl", tmp_path / "hopper.hdf5", Reporter())
    with h5py.File(tmp_path / "hopper.hdf5") as file:
        ends = np.flatnonzero(file["terminals"][:] | file["timeouts"][:]) + 1
        np.testing.assert_array_equal(ends, mixed.offsets[1:])
        if "next_observations" in file:
            inner = np.setdiff1d(np.arange(86), ends - 1)
            np.testing.assert_array_equal(
                file["next_observations"][:][inner], file["observations"][:][inner + 1]
            )


def test_convert_from_the_command_line(
    write_d4rl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = str(write_d4rl((40, 25))), tmp_path / "out.hdf5"
    command = ["data", "convert", source, "--to", "d4rl", "--output", str(output)]
    assert main(command) == 0
    assert "65 transitions" in capsys.readouterr().out
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("layout", NAMES)
def test_a_relative_output_is_as_good(
    layout: str, store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    convert(store, layout, Path("out") / NAMES[layout], Reporter())
    assert reopened(layout, tmp_path / "out" / NAMES[layout]).checksum == store.checksum


def test_what_fails_leaves_nothing(
    mixed: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(store: EpisodeStore, output: Path, reporter: Reporter) -> None:
        output.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(LAYOUTS, "d4rl", fail)
    with pytest.raises(UserError, match="No space left"):
        convert(mixed, "d4rl", tmp_path / "out" / "x.hdf5", Reporter())
    assert list((tmp_path / "out").iterdir()) == []
