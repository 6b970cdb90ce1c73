"""Tests of grids of runs: which are refused, skipped, resumed and listed as failed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import decision_seq
from decision_seq import cli, recipes
from decision_seq.commands import sweep as verb
from decision_seq.commands.configuration import configure
from decision_seq.config import dump, load
from decision_seq.recipes import recipe_path, table_path, tables
from decision_seq.runs.folder import held
from decision_seq.runs.resolve import Config
from decision_seq.sequences.conditioning import ReturnToGo
from decision_seq.sweep import Run, examine, examine_folders, folder, read_grid, slurm, sweep
from decision_seq.sweep.folders import last_line
from decision_seq.sweep.local import Local, command, environment
from decision_seq.sweep.slurm import Cluster, Submitted, job_name
from decision_seq.types import Reporter, UserError
from tests.conftest import Lines
from tests.test_train import TINY
from tests.waiting import LIMIT, until

SMALL: dict[str, Any] = {
    **TINY,
    "train": {**TINY["train"], "steps": 6, "checkpoint_every": 3, "trackers": []},
    "evaluation": {"episodes": 2, "targets": [100]},
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread: more threads than cores slow small models down tenfold or more."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "grid.yaml"
        tree = {
            "set": SMALL,
            "datasets": ["bundled/hopper-medium"],
            "policies": {"dt": {}},
            "seeds": [0],
            **changes,
        }
        path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
        return path

    return write


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders for which a report was requested."""
    folders: list[Path] = []
    monkeypatch.setattr(verb, "_report", lambda folder, _: folders.append(folder) or 0)
    return folders


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, list[str]]:
    """Exit code, standard output and standard error lines of a sweep, without bars."""
    code = cli.main(["sweep", *map(str, arguments)])
    printed = capsys.readouterr()
    lines = [piece.strip() for piece in printed.err.replace("\r", "\n").splitlines()]
    return code, printed.out, [line for line in lines if line and "%|" not in line]


def test_a_grid_is_the_product_of_its_axes_with_later_settings_over_earlier(
    write_grid: Callable[..., Path],
) -> None:
    path = write_grid(
        datasets=["bundled/hopper-medium", "walker2d-medium-v2"],
        policies={
            "dt": None,
            "wide": {"config": "dt/paper", "set": {"policy": {"backbone": {"width": 32}}}},
        },
        seeds=[3, 5],
    )
    runs = read_grid(path, ["train.steps=9", "policy.backbone={layers: 1}"])
    assert [run.name for run in runs[:3]] == [
        "bundled-hopper-medium-dt-seed3",
        "bundled-hopper-medium-dt-seed5",
        "bundled-hopper-medium-wide-seed3",
    ]
    assert len(runs) == 8
    config = runs[-1].config
    assert (config.dataset, config.seed, config.train.steps) == ("walker2d-medium-v2", 5, 9)
    backbone = config.policy.backbone  # from the set, the policy, --set, the recipe
    assert (backbone.dropout, backbone.width, backbone.layers, backbone.heads) == (0.1, 32, 1, 1)
    assert config.policy.positions.std == 1.0  # dt/paper's
    assert [run.config.seed for run in read_grid(path, seeds=3)][:3] == [0, 1, 2]


def test_what_a_recipe_says_of_a_dataset_holds_for_it_alone(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    tree = {
        "held_out": 0.1,
        "for_datasets": {"walker2d-*": {"held_out": 0.2, "best_fraction": 0.5}},
    }
    mine.write_text(yaml.safe_dump(tree))
    path = write_grid(
        datasets=["bundled/hopper-medium", "walker2d-medium-v2"],
        policies={
            "dt": {"config": str(mine)},
            "all": {"config": str(mine), "set": {"held_out": 0}},
        },
    )
    found = [(run.config.held_out, run.config.best_fraction) for run in read_grid(path)]
    assert found == [(0.0, 1.0), (0.1, 1.0), (0.0, 0.5), (0.2, 0.5)]
    options, rest = cli.build_parser().parse_known_args(
        ["train", "--config", str(mine), "--dataset", "walker2d-medium-v2", "--held_out", "0.3"]
    )
    options.overrides = rest
    made, _ = configure(options)
    assert (made.held_out, made.best_fraction) == (0.3, 0.5)
    # On resume, the saved run's dataset applies.
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.yaml").write_text("dataset: walker2d-medium-v2")
    options.dataset, options.output, options.resume, options.overrides = None, output, "auto", []
    assert configure(options)[0].held_out == 0.2


def test_the_arguments_of_a_run_give_back_its_configuration(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    env_id = 'Ant-v4?{"use_contact_forces": true}'
    settings = ["conditioning.scale=1e-5", "evaluation.targets=[3600, 1.5e-7]"]
    (made,) = read_grid(write_grid(), [*settings, f"evaluation.env_id={env_id}"])
    options, rest = cli.build_parser().parse_known_args(made.arguments(tmp_path / "out"))
    options.overrides = rest
    assert configure(options) == (made.config, tmp_path / "out")
    assert made.config.evaluation.env_id == env_id
    # Also in a folder with another configuration, the grid's is used.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("evaluation: {env_id: Hopper-v4, every: 7}")
    assert configure(options)[0] == made.config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"datasetts": ["x"]}, "unknown key 'datasetts'"),
        ({"datasets": []}, "datasets is empty"),
        ({"datasets": "hopper-medium"}, "datasets is empty"),
        ({"datasets": ["a/b", "a-b"]}, "the run a-b-dt-seed0 is there twice"),
        ({"datasets": ["a", "a"]}, "the dataset a is there twice"),
        ({"policies": None}, "policies is empty"),
        ({"policies": {"../up": {}}}, "policies.../up names a folder"),
        ({"policies": {"dt": {"sett": {}}}}, "policies.dt: unknown key 'sett'"),
        ({"policies": {"dt": {"config": "dt/none"}}}, "no recipe is called 'dt/none'"),
        ({"policies": {"dt": {"config": 3}}}, "config 3 is no recipe's name"),
        ({"policies": {"dt": {"set": {"train": {"stepps": 1}}}}}, "unknown key train.stepps"),
        ({"policies": {"dt": {"set": {"seed": 1}}}}, "may not set seed"),
        ({"policies": {"dt": {"set": [1]}}}, "must hold keys"),
        ({"seeds": [0, 0]}, "the seed 0 is there twice"),
        ({"seeds": [True]}, "seeds holds True"),
        ({"seeds": [-1]}, "seed -1 must be in"),
        ({"set": {"train": {"steps": 200}}}, "add --set train.warmup_steps=20"),
    ],
)
def test_a_wrong_grid_is_one_line_before_anything_runs(
    changes: dict[str, Any],
    named: str,
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    code, out, lines = run(capsys, write_grid(**changes), "--output", tmp_path / "out")
    assert (code, out, len(lines)) == (2, "", 1)
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], f"no table is called 'nothing'; there are {', '.join(sorted(tables()))}"),
        (["nothing.yaml"], "nothing.yaml does not exist"),
        (["GRID", "--set", "train.steps"], "is no key=value"),
        (["GRID", "--set", "dataset=x"], "may not set dataset"),
        (["GRID", "--seeds", 0], "--seeds 0 asked for"),
        (["GRID", "--seeds", 10**9], "at most 10,000 make a grid"),
        (["GRID", "--jobs", 0], "--jobs 0 asked for"),
        (["GRID", "--jobs", 2, "--slurm"], "--jobs is for this machine"),
        (["GRID", "--partition", "gpu"], "are for --slurm"),
        (["GRID", "--slurm", "--sbatch", "qos"], "--sbatch 'qos' is no key=value"),
        (["GRID", "--slurm"], "--slurm needs sbatch, srun, squeue, not found here"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[Any],
    named: str,
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    path = write_grid()
    arguments = [path if argument == "GRID" else argument for argument in arguments]
    code, _, lines = run(capsys, *arguments, "--output", tmp_path / "out")
    assert (code, len(lines)) == (2, 1)
    assert named in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_key_written_twice_is_refused(
    tmp_path: Path, write_grid: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    path = write_grid()
    path.write_text(path.read_text().replace("  dt: {}", "  dt: {}\n  dt: {}"))
    assert run(capsys, path)[2] == [f"decision-seq: {path}: the key dt is there twice"]


def test_tables_are_found_by_name_and_are_no_recipes() -> None:
    assert {"gym", "gym-medium"} <= tables().keys()
    assert not [name for name in recipes.recipes() if name.startswith("tables")]
    for name in tables():
        runs = read_grid(table_path(name))
        assert len({run.name for run in runs}) == len(runs) >= 9
    for made in read_grid(table_path("gym")):
        paper = "dt/paper" if "-dt-" in made.name else "bc/paper"
        recipe = load(Config, {**yaml.safe_load(recipe_path(paper).read_text())})
        best = 0.1 if "best10" in made.name else 1.0
        expected = dataclasses.replace(recipe, best_fraction=best)
        assert (
            dataclasses.replace(made.config, dataset=recipe.dataset, seed=0, method=None)
            == expected
        )


def test_a_sweep_runs_skips_names_and_reruns(
    write_d4rl: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
    reported: list[Path],
    capsys: pytest.CaptureFixture,
) -> None:
    """One folder with a run that fails, one that finishes, and one of someone else."""
    path, output = write_grid(datasets=[str(write_d4rl())], seeds=[0, 1, 2]), tmp_path / "out"
    names = [f"hopper_medium-v2-dt-seed{seed}" for seed in (0, 1, 2)]
    code, out, _ = run(capsys, path, "--output", output, "--dry-run")
    assert (code, out.split()) == (0, [word for name in names for word in ("new", name)])
    assert not output.exists()

    (output / names[1]).mkdir(parents=True)  # refused by train
    (output / names[1] / "mine.txt").write_text("keep")
    other = load(Config, SMALL, {"seed": 2, "train": {"batch_size": 9}})
    (output / names[2]).mkdir()
    (output / names[2] / "config.yaml").write_text(dump(other))
    code, out, lines = run(capsys, path, "--output", output, "--jobs", 2)
    assert (code, reported) == (2, [output])
    assert "sweep: 3 runs, 0 finished before, 2 to do, 1 refused" in lines
    assert any(re.fullmatch(rf"finish  {names[0]} \([\d:]+\)", line) for line in lines)
    refused, failed = lines[-2:]
    assert refused.startswith(f"decision-seq: {names[2]}: cannot resume")
    assert "train.batch_size (9 -> 8)" in refused
    assert f"decision-seq: {names[1]}: decision-seq: " in failed
    assert "is not empty and holds no run" in failed
    assert [path.name for path in (output / names[2]).iterdir()] == ["config.yaml"]
    assert (output / "grid.yaml").read_text() == path.read_text()
    scores = json.loads((output / names[0] / "scores.json").read_text())
    assert scores["targets"][0]["episodes"] == 2

    # The failed run and the foreign one are fixed; the finished one is not run again.
    (output / names[1] / "mine.txt").unlink()
    (output / names[2] / "config.yaml").unlink()
    before = (output / names[0] / "scores.json").stat().st_mtime_ns
    code, _, lines = run(capsys, path, "--output", output, "--seeds", 2)
    assert code == 0, lines
    assert "sweep: 2 runs, 1 finished before, 1 to do, 0 refused" in lines
    assert (output / names[0] / "scores.json").stat().st_mtime_ns == before
    assert (output / "grid.yaml").read_text().endswith("# --seeds 2\n")

    # Other episodes: same training, another evaluation. More steps of a cosine: another run.
    runs = read_grid(path, ["evaluation.episodes=3"])[:2]
    assert set(examine(runs, output, Reporter()).progress.values()) == {"begun"}
    runs = read_grid(path, ["train.steps=7"])[:1]
    plan = examine(runs, output, Reporter())
    assert "train.steps (6 -> 7)" in plan.refused[names[0]]
    code, out, lines = run(capsys, path, "--output", output, "--dry-run", "--set", "train.steps=7")
    assert (code, out.split()[:2]) == (2, ["refused", names[0]])
    assert "train.steps (6 -> 7)" in lines[0]


@pytest.mark.parametrize(("asked", "scored_at"), [("max", 3234.5), (3600.0, 3600.0)])
def test_a_finished_run_is_listed_as_such_without_a_look_at_its_data(
    write_grid: Callable[..., Path], tmp_path: Path, asked: str | float, scored_at: float
) -> None:
    """Targets given as words, and those of an unconditioned policy, are resolved by the data."""
    cloning = {"conditioning": {"name": "none"}}
    goal = {"policy": {"name": "tt"}, "conditioning": {"name": "goal"}}
    path = write_grid(policies={"dt": {}, "cloned": {"set": cloning}, "goal": {"set": goal}})
    runs = read_grid(path, [f"evaluation.targets=[{asked}]"])
    for run in runs:
        folder = tmp_path / "runs" / run.name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(run.config))
        target = scored_at if isinstance(run.config.conditioning, ReturnToGo) else None
        scored = {"target": target, "episodes": 2, "seed": run.config.evaluation.seed}
        scores = {"env_id": "Hopper-v4", "checkpoint": "x/step-00000006", "targets": [scored]}
        (folder / "scores.json").write_text(json.dumps(scores))
    plan = examine_folders(runs, tmp_path / "runs")
    assert list(plan.progress.values()) == ["finished"] * 3
    more = read_grid(path, [f"evaluation.targets=[{asked}]", "evaluation.episodes=3"])
    assert set(examine_folders(more, tmp_path / "runs").progress.values()) == {"begun"}


def test_the_data_are_had_before_any_run_begins(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    reported: list[Path],
    capsys: pytest.CaptureFixture,
) -> None:
    path = write_grid(datasets=["bundled/hopper-medium", "bundled/nothing"])
    settings = ["--set", "collection.steps=500"]
    code, _, lines = run(capsys, path, "--output", tmp_path / "out", *settings)
    assert code == 2
    assert "bundled/nothing does not exist" in lines[-1]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["grid.yaml"]


def test_every_run_gets_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(4, lambda: 10) == {"DECISION_SEQ_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    assert environment(4, lambda: 2)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in environment(1, lambda: 10)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in environment(4, lambda: 10)


def test_a_run_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    here = Path(decision_seq.__file__).resolve().parent.parent
    others = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    monkeypatch.setattr("sys.path", ["", *others])  # as under `python -m`, not installed
    python, *options = command(tmp_path, Run("x", Config()))[:4]
    code = "import yaml, decision_seq.config, sys; print(decision_seq.__file__)"
    outcome = subprocess.run(
        [python, *options[:-2], "-c", code],
        cwd=tmp_path,
        env={**os.environ, **environment(1)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.strip() == str(Path(decision_seq.__file__).resolve())


def test_one_sweep_at_a_time_works_in_a_folder(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "runs"
    with folder(output):
        (output / ".lock").unlink()  # which protects nothing by itself
        code, printed, lines = run(capsys, write_grid(), "--output", output)
        assert (code, printed) == (2, "")
        assert len(lines) == 1
        assert f"another process is sweeping in {output}; wait for it" in lines[0]
        assert list(output.iterdir()) == []
    assert run(capsys, write_grid(), "--output", output, "--dry-run")[0] == 0


def test_a_training_that_outlived_its_sweep_is_named(tmp_path: Path) -> None:
    orphan = Run("orphan", Config())
    (tmp_path / "orphan").mkdir()
    reporter = Lines()
    with held(tmp_path / "orphan"), reporter.bar("sweep", "run", 1) as bar:
        failed = Local(tmp_path, 1, reporter).run([orphan], bar)
    assert re.match(
        rf"another process is training in .*orphan \(process {os.getpid()} on", failed["orphan"]
    )
    assert "an earlier sweep may have started it" in failed["orphan"]
    assert reporter.lines == ["refused orphan: a process is training it already"]
    assert not (tmp_path / "orphan.log").exists()


def test_runs_without_a_rollout_need_no_report(
    monkeypatch: pytest.MonkeyPatch,
    write_d4rl: Callable[..., Path],
    write_grid: Callable[..., Path],
    tmp_path: Path,
    reported: list[Path],
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(Local, "run", lambda *_: {})
    path, output = write_grid(datasets=[str(write_d4rl())]), tmp_path / "out"
    settings = ["--output", output, "--set", "evaluation.episodes=0"]
    assert run(capsys, path, *settings)[0] == 0
    assert reported == []


def test_a_log_that_cannot_be_written_leaves_no_run_alone(tmp_path: Path) -> None:
    (tmp_path / "b.log").mkdir()
    local, reporter = Local(tmp_path, 2, Lines()), Lines()
    with pytest.raises(IsADirectoryError), reporter.bar("", "", 2) as bar:
        local.run([stand("a", "train", "--dataset", "bundled/hopper-medium"), stand("b")], bar)
    assert local.running["a"][1].poll() is not None


def test_the_last_line_is_what_was_said_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n\rtrain: 10%|\rtrain: 20%| \xff\n\n")
    assert last_line(log).startswith("train: 20%|")
    assert last_line(tmp_path / "absent") == ""


class Stand(Run):
    """Stand-in for a run that executes any command."""

    words: tuple[str, ...] = ()

    def arguments(self, output: Path) -> list[str]:
        return [*self.words]


def stand(name: str, *words: str) -> Stand:
    made = Stand(name, Config())
    object.__setattr__(made, "words", words)
    return made


def test_a_failed_run_stops_no_other_and_no_more_run_than_jobs(tmp_path: Path) -> None:
    runs = [stand("a", "no-such-verb"), stand("b", "--version"), stand("c", "--version")]
    reporter = Lines()
    with reporter.bar("", "", 3) as bar:
        failed = Local(tmp_path, 1, reporter).run(runs, bar)
    assert list(failed) == ["a"]
    assert "invalid choice: 'no-such-verb'" in failed["a"]
    assert [line.split()[:2] for line in reporter.lines] == [
        [word, name]
        for name, end in (("a", "failed"), ("b", "finish"), ("c", "finish"))
        for word in ("start", end)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_sweep_leaves_runs_that_go_on(
    number: int, code: int, write_d4rl: Callable[..., Path], write_grid: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    path, output = write_grid(datasets=[str(write_d4rl())], seeds=[0, 1]), tmp_path / "out"
    arguments = [sys.executable, "-m", "decision_seq", "sweep", str(path), "--output", str(output)]
    more = ["--jobs", "2", "--set", "train.steps=4000", "train.checkpoint_every=4000"]
    process = subprocess.Popen([*arguments, *more], stderr=subprocess.PIPE, text=True)
    metrics = [output / f"hopper_medium-v2-dt-seed{seed}" / "metrics.jsonl" for seed in (0, 1)]
    until(lambda: all(file.is_file() and file.stat().st_size > 3_000 for file in metrics), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert "2 running are asked to save" in said
    for file in metrics:
        steps = [json.loads(line)["step"] for line in file.open()]
        assert 0 < len(steps) < 4_000
        assert (file.parent / "checkpoints" / f"step-{steps[-1]:08d}").is_dir()  # none is lost
        log = output / f"{file.parent.name}.log"
        assert "stopped by signal 15; saved" in log.read_text()
    plan = examine(
        read_grid(path, ["train.steps=4000", "train.checkpoint_every=4000"]), output, Reporter()
    )
    assert set(plan.progress.values()) == {"begun"}


def local_cluster(folder: Path) -> tuple[Cluster, list[Any]]:
    """submitit's local executor as a scheduler: it pickles, starts and requeues jobs."""
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(timeout_min=60)
    jobs: list[tuple[str, Any]] = []

    class Named:
        name = ""

        def update_parameters(self, job_name: str) -> None:
            self.name = job_name

        def submit(self, job: Any) -> Any:
            jobs.append((self.name, executor.submit(job)))
            return jobs[-1][1]

    return Cluster(Named(), lambda: {name for name, job in jobs if not job.done()}), jobs


@pytest.mark.slow
def test_runs_are_submitted_interrupted_and_finished(
    write_d4rl: Callable[..., Path], write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    path, output = write_grid(datasets=[str(write_d4rl())]), tmp_path / "out"
    runs = read_grid(path, ["train.steps=600", "train.checkpoint_every=600"])
    plan = examine(runs, output, Reporter())
    cluster, jobs = local_cluster(tmp_path / "jobs")
    folder, interrupted = output / runs[0].name, []

    def queued() -> set[str] | None:
        metrics = folder / "metrics.jsonl"
        if jobs and not interrupted and metrics.is_file() and metrics.stat().st_size > 3_000:
            for task in psutil.Process(int(jobs[0][1].job_id)).children(recursive=True):
                task.send_signal(signal.SIGUSR2)  # to all processes of a job, as SLURM does
            interrupted.append(True)
        return cluster.queued()

    def launcher(done: Callable[[Run], bool]) -> Submitted:
        return Submitted(output, Cluster(cluster.executor, queued), done, reporter, 0.1)

    reporter = Lines()
    output.mkdir()
    failed = sweep(runs, output, plan, launcher, reporter)
    log = (output / f"{runs[0].name}.log").read_text()
    assert failed == {}, log
    assert interrupted
    assert "stopped by signal 15; saved" in log
    assert "resumed from" in log
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert steps == list(range(1, 601))
    assert examine(runs, output, Reporter()).progress[runs[0].name] == "finished"


def test_a_job_that_fails_is_named_and_a_queued_one_is_not_submitted_again(tmp_path: Path) -> None:
    cluster, jobs = local_cluster(tmp_path / "jobs")
    runs = [stand("a", "no-such-verb"), stand("b", "--version")]
    asked: list[int] = []

    def queued() -> set[str] | None:
        asked.append(1)
        earlier = {job_name(tmp_path, runs[1])} if len(asked) < 3 else set()
        return None if len(asked) == 2 else (cluster.queued() or set()) | earlier

    reporter = Lines()
    submitted = Submitted(
        tmp_path, Cluster(cluster.executor, queued), lambda run: run.name == "b", reporter, 0.1
    )
    with reporter.bar("", "", 2) as bar:
        failed = submitted.run(runs, bar)
    assert [name for name, _ in jobs] == [job_name(tmp_path, runs[0])]
    assert list(failed) == ["a"]
    assert "invalid choice: 'no-such-verb'" in failed["a"]
    assert "queued  b (by an earlier sweep)" in reporter.lines


def test_what_is_submitted_to_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's commands are stand-ins; the batch file is submitit's."""
    pytest.importorskip("submitit")
    scripts = {
        "sbatch": 'cp "$1" batch.sh; echo Submitted batch job 17',
        "srun": "true",
        "squeue": 'echo "$@" > asked; echo some-job; echo other',
    }
    (tmp_path / "bin").mkdir()
    for name, body in scripts.items():
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    cluster = slurm.slurm(tmp_path / "slurm", "gpu", 30, ["gpus-per-node=1", "--qos=low"])
    assert cluster.queued() == {"some-job", "other"}
    assert "--me" in (tmp_path / "asked").read_text()
    submitted = Submitted(tmp_path, cluster, lambda _: True, Lines(), 0.01)
    made = stand("a", "--version")
    with Reporter().bar("", "", 1) as bar:
        assert submitted.run([made], bar) == {}
    batch = (tmp_path / "batch.sh").read_text()
    for line in (
        f"--job-name={job_name(tmp_path, made)}",
        "--partition=gpu",
        "--time=30",
        "--gpus-per-node=1",
        "--qos=low",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {line}\n" in batch
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho bad partition >&2; exit 1\n")
    with pytest.raises(UserError, match=r"sbatch refuses a: .*bad partition"):
        submitted._submit(made)
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with Reporter().bar("", "", 1) as bar, pytest.raises(UserError, match="squeue does not"):
        submitted.run([made], bar)
