"""Tests that run the commands of the pages, in a tiny form and in one process.

A command that needs a network, other packages or several processes is run by another test, which
`ELSEWHERE` names.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import decision_seq as ds
from decision_seq import at_hand
from decision_seq.cli import main
from decision_seq.envs import named
from tests import pages
from tests.conftest import write_store
from tests.page_faults import only_named
from tests.pages import ROOT

# Pattern of a command's beginning -> the file and the test that runs it.
ELSEWHERE = {
    r".*accelerate launch": "test_cluster.py::test_the_configurations_for_one_machine_launch",
    r".*torchrun-elastic.sh": "test_cluster.py::test_a_lost_process_is_replaced_and_the_run",
    r".*slurm.sbatch": "test_cluster.py::test_a_slurm_job_saves_and_requeues_itself",
    r".*my_gru|.*runs/gru": "test_extending.py::test_files_of_the_page_are_plugins",
    r".*_template|.* plugins|.*linear.yaml|.* returns$": "test_plugins.py::test_the_template_by_op",
    r"pip install ./experiments": "test_plugins.py::test_the_template_installed",
    r"pip|source|python experiments": "test_pages.py::test_commands_are_understood",
    r"make bench-peers": "bench/test_peers.py::test_ours_beside_another",
    r"make": "test_pages.py::test_commands_are_understood",
    r".* push": "sharing/test_hub.py::test_pushed_and_imported",
    r".* import edbeeching": "sharing/test_hub.py::test_pushed_and_imported",
    r".* import dt_checkpoint": "sharing/test_original.py::test_the_originals_state_dict",
    r".* data fetch": "datasets/fetching/test_download.py::test_a_file_is_fetched_once",
    r".* data collect --policy": "datasets/collected/test_behaviour.py::test_both_kinds_of_file",
    r".* --to dqn-replay|.* atari/Breakout": "datasets/dqn_replay/test_dqn_replay.py::test_the_c",
    r".* sweep (?!.*--dry-run)": "sweep/test_sweep.py::test_a_sweep_runs_skips_names_and_reruns",
    r".* doctor": "doctor/test_doctor.py::test_a_healthy_machine",
    r".* config check": "commands/test_config.py::test_a_check_predicts_and_begins_no_run",
    r".* bench train|.* bench --help|.* bench$": "bench/test_training.py::test_a_result_has_a_row",
    r".* bench steps": "bench/test_steps.py::test_every_side_is_measured_with_its_share_of_data",
    r".* bench sample --frames": "bench/test_frame_store.py::test_a_store_may_be_given",
    r".* bench sample": "bench/test_sampling.py::test_a_store_is_measured",
    r".* bench evaluate": "bench/test_evaluation.py::test_both_procedures_roll_out_the_same",
    r".* bench plan": "bench/test_planning.py::test_every_entrant_is_measured",
    r".* bench startup": "bench/test_startup.py::test_every_command_is_timed",
    r".* bench growth": "bench/test_growth.py::test_three_axes_are_measured_and_drawn",
    r".* bench time-to-score": "bench/test_time_to_score.py::test_a_recipes_seeds_are_averaged",
    r".* bench intervals": "bench/test_intervals.py::test_every_kind_of_interval_has_its_rows",
}
# Words that a page leaves to the reader, by verb.
STAND_INS = {
    ("evaluate", "DIR"): "runs/mine",
    ("evaluate", "RUN"): "runs/mine",
    ("match", "DIR"): "runs/cdt",
    ("match", "RUN"): "runs/cdt",
    ("predict", "DIR"): "runs/tt",
    ("explain", "DIR"): "runs/predictor",
    ("train", "NAME"): "dt/gym",
    ("sweep", "NAME"): "gym-medium",
    ("train", "FILE.hdf5"): "hopper_medium-v2.hdf5",
    ("train", "key-to-door-10k"): "key-to-door-1k",
}
SMALL = [
    *("--train.steps", "2", "--train.warmup_steps", "1", "--train.batch_size", "4"),
    *("--train.trackers", "[]", "--evaluation.episodes", "1", "--evaluation.workers", "1"),
    *("--evaluation.max_episode_steps", "5", "--train.checkpoint_every", "2"),
]
COLLECTED = ["--collection.steps", "60"]
PLANS = ["--policy.planner.beams", "2", "--policy.planner.horizon", "1"]
FEW = ["--episodes", "1", "--workers", "1"]
# Further arguments of a verb, which take precedence over the page's.
MORE = {
    "evaluate": [*FEW, "--max-episode-steps", "5"],
    "match": [*FEW, "--targets", "2"],
    "predict": ["--steps", "3", "--episodes", "1", "--samples", "1"],
    "explain": ["--episodes", "60"],
    "collect": ["--steps", "60", "--workers", "1"],
}
NARROW = ["--policy.backbone.width", "16", "--policy.backbone.layers", "1"]
RUNS = {
    "mine": ["--dataset", "toy", "--train.schedule", "constant", "--held_out", "0.5", *NARROW],
    "tt": ["--dataset", "toy", "--config", "tt/small", *PLANS, *NARROW],
    "cdt": [
        *("--dataset", "toy", "--config", "gdt/cdt-small", "--held_out", "0.5"),
        *("--conditioning.feature", "0", *NARROW),
    ],
    "predictor": ["--dataset", "key-to-door-1k", "--config", "return_predictor/key-to-door"],
    "arm": ["--dataset", "mine"],
}
# Commands that take less than a second or two each; the others are slow tests.
CHEAP = re.compile(
    r"decision-seq (report .*--html|predict runs|data list|config|export .* checkpoint"
    r"|evaluate runs/mine($| --offline| --target)|match .*--splice|train --help$"
    r"|train (--output runs/mine --resume$|.* --output runs/tiny))"
)


def elsewhere(line: str) -> str | None:
    """The test that runs a command; None for one that is run here."""
    return next((test for pattern, test in ELSEWHERE.items() if re.match(pattern, line)), None)


def test_every_command_is_run_somewhere() -> None:
    """Those that are not run here have their test, and no entry is left over."""
    lines = [str(one) for one in pages.commands() if "reference/" not in one.page]
    tests = {test for line in lines if (test := elsewhere(line))}
    assert tests == set(ELSEWHERE.values())
    for test in tests:
        file, name = test.split("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text(), test
    assert len(list(run_here())) > 60


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small data, an environment and a small run of each kind."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECISION_SEQ_DATA", str(folder / "stores"))
        patch.setenv("DECISION_SEQ_OFFLINE", "1")
        patch.setenv("HOME", str(folder / "home"))
        patch.chdir(folder)
        for name in ("toy", "big", "RANDOM"):
            write_store(folder, [30, 20, 25, 30, 20, 25, 30, 20, 25, 30, 22], name)
        write_files(folder)
        for name, options in RUNS.items():
            assert main(["train", "--output", f"runs/{name}", *options, *SMALL]) == 0
        assert main(["export", "runs/mine", "--to", "checkpoint", "--output", "policy"]) == 0
        forget()
        yield folder


def write_files(folder: Path) -> None:
    """The files that the pages name: data, an environment, configurations."""
    (folder / "path/to").mkdir(parents=True)
    assert main(["data", "convert", "toy", "--to", "d4rl", "--output", "FILE.hdf5"]) == 0
    for copy in ("path/to/hopper_medium-v2.hdf5", "hopper_medium-v2.hdf5"):
        shutil.copy("FILE.hdf5", copy)
    pages.write_files(folder)
    rng = np.random.default_rng(0)
    rows = {"observations": rng.normal(size=(60, 5)), "actions": rng.uniform(-2, 2, (60, 2))}
    ends = np.arange(60) % 20 == 19
    flat = {**rows, "rewards": np.ones(60), "terminals": ends * 0 > 1, "timeouts": ends}
    np.savez("path/to/mine.npz", **flat)
    episodes = [{key: value[at : at + 20] for key, value in rows.items()} for at in (0, 20, 40)]
    ends_of = {"rewards": np.ones(20), "truncated": True}
    ds.write_dataset("mine", [{**one, **ends_of} for one in episodes], env_id="arm:Arm-v0")
    Path("FILE.yaml").write_text("policy: {context_length: 5}\n")


def forget() -> None:
    """Undo what the import of the environment registers."""
    sys.modules.pop("arm", None)
    gymnasium.registry.pop("Arm-v0", None)
    named._trusted.discard("arm:Arm-v0")


def tiny(arguments: tuple[str, ...]) -> list[str]:
    """The arguments with the reader's words filled in and small sizes."""
    verb = arguments[0]
    words = [STAND_INS.get((verb, word), word) for word in arguments]
    if "--help" in words:
        return ["policy.tt" if word == "NAME" else word for word in arguments]
    if verb == "evaluate" and "--planner" in words:
        words[1] = "runs/tt"
    if verb == "data":
        return tiny_data(words)
    if verb != "train":
        few = ("--offline", "--splice")  # no rollout; five targets are needed
        return words if any(option in words for option in few) else words + MORE.get(verb, [])
    if "--resume" in words and "auto" not in words:  # a finished run of two updates
        return ["4" if word == "6000" else word for word in words]
    if "--output" in words:  # the prepared run is not in the way
        words[words.index("--output") + 1] = "new"
    plans = PLANS if any(word.startswith("tt/") for word in words) else []
    same = NARROW if "--init-from" in words else []
    few = [] if "key-to-door-1k" in words else COLLECTED
    return [*words, *SMALL, *few, *plans, *same]


def tiny_data(words: list[str]) -> list[str]:
    """The arguments of a verb of `data`, about the small store; a collection is made anew."""
    made = words[1] == "collect"
    words = [
        ("hopper-medium" if made else "toy") if w in ("NAME", "hopper-medium") else w for w in words
    ]
    if made and "--output" in words:
        words[words.index("--output") + 1] = "new"
    return words + MORE.get(words[1], [])


def run_here() -> Iterator[pytest.param]:
    """The tiny forms of the commands that are run here, each once."""
    lines: dict[tuple[str, ...], str] = {}
    for one in pages.commands():
        arguments = one.arguments
        if arguments and not (one.cut or only_named(arguments) or elsewhere(str(one))):
            lines.setdefault(tuple(tiny(arguments)), str(one))
    for words, line in lines.items():
        marks = [] if CHEAP.match(line) else [pytest.mark.slow]
        yield pytest.param(list(words), id=line, marks=marks)


@pytest.mark.parametrize("words", list(run_here()))
def test_a_command_runs(
    words: list[str],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[1].startswith("bundled/") and words[1] not in at_hand.names():
        pytest.skip("the policies at hand are not in this package")
    if any(word.startswith("atari/") for word in words):
        pytest.importorskip("ale_py")
    shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("DECISION_SEQ_DATA", str(prepared / "stores"))
    monkeypatch.setenv("HOME", str(prepared / "home"))
    path = list(sys.path)
    try:
        with contextlib.suppress(SystemExit):  # of --help
            assert main(words) == 0, capsys.readouterr().err
    finally:
        forget()
        sys.path[:] = path
