"""Tests of comparisons: units of averages, and separation of runs that do not compare."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decision_seq.report.compare import Comparison, compare, counted, labels
from decision_seq.report.runs import find_runs, read_run, value
from decision_seq.report.summary import improvements, shared, summaries
from tests.report.folders import BUNDLED, D4RL, HOPPER, write_run

BC = {"name": "bc", "layers": 3}


def compared(folder: Path) -> Comparison:
    return compare(find_runs([folder])[0])


def test_seeds_are_the_unit_where_there_are_several(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / str(seed), seed)
    runs, _ = find_runs([tmp_path])
    comparison = compare(runs)
    (group,) = comparison.groups.values()
    estimate = group.estimate()
    means = [np.mean(run.scores.targets[0].returns) for run in runs]
    scores = [100 * (mean - HOPPER[0]) / (HOPPER[1] - HOPPER[0]) for mean in means]
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert estimate.mean == pytest.approx(np.mean(scores))
    assert estimate.interval == pytest.approx(tuple(expected))
    assert counted(estimate) == "4 seeds"


def test_episodes_are_the_unit_of_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (group,) = compared(tmp_path).groups.values()
    assert group.estimate().interval == group.runs[0].headline.interval_95
    assert counted(group.estimate()) == "4 episodes of 1 seed"


def test_headline_is_last_and_first_and_best_of_is_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (group,) = compared(tmp_path).groups.values()
    (run,) = group.runs
    assert group.estimate().mean == value(run.scores.targets[0])
    best = max(value(record["targets"][0]) for record in run.evaluations)
    assert group.best_of_evaluations() == best
    assert group.best_of_targets() == max(map(value, run.scores.targets))


def test_labels_say_what_differs(tmp_path: Path) -> None:
    dt = {"name": "dt", "context_length": 20}
    write_run(tmp_path / "a", policy=dt)
    write_run(tmp_path / "b", policy={**dt, "context_length": 5})
    write_run(tmp_path / "c", 1, policy=BC, targets=(None,), more={"best_fraction": 1.0})
    write_run(tmp_path / "d", 1, policy=BC, targets=(None,), more={"best_fraction": 0.1})
    write_run(tmp_path / "e", 1, policy=BC, targets=(None,), more={"least_return": 1.0})
    comparison = compared(tmp_path)
    assert comparison.labels == [
        "BC (MLP)",
        "BC (MLP) best 10 %",
        "BC (MLP) returns >= 1",
        "DT context_length 20",
        "DT context_length 5",
    ]
    assert len(comparison.rows) == 1  # lack of a target return does not separate them
    assert comparison.notes == []


def test_a_name_of_a_grid_or_a_recipe_is_the_label_of_its_method(tmp_path: Path) -> None:
    def label(*methods: tuple[str | None, int, str]) -> list[str]:
        runs = []
        for number, (method, length, policy) in enumerate(methods):
            folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            made = {"name": policy, "context_length": length}
            more = {} if method is None else {"method": method}
            runs.append(read_run(write_run(folder, number, policy=made, more=more)))
        return labels(runs)

    assert label(("k5", 5, "dt"), ("k5", 5, "dt"), ("k20", 20, "dt")) == ["k5", "k5", "k20"]
    assert label(("dt/gym", 20, "dt"), (None, 20, "dt")) == ["DT", "DT"]  # the policy's own
    # Runs of one method stay together, however they were begun; two methods stay apart.
    assert label(("k5", 5, "dt"), (None, 5, "dt"), ("bc", 1, "bc")) == ["DT", "DT", "BC (MLP)"]
    both = ["DT context_length 20", "DT context_length 5"]
    assert label(("mine", 20, "dt"), ("mine", 5, "dt")) == both
    assert label(("dt", 20, "bc"), (None, 20, "dt")) == ["BC (MLP)", "DT"]


def test_delayed_rewards_are_said_of_every_run_that_had_them(tmp_path: Path) -> None:
    """Also for a single run. An explicit `delayed: false` equals a config without the key."""
    write_run(tmp_path / "a", more={"delayed": True})
    assert compared(tmp_path).labels == ["DT delayed reward"]
    write_run(tmp_path / "b", more={"delayed": False})
    write_run(tmp_path / "c", 1)
    comparison = compared(tmp_path)
    assert comparison.labels == ["DT", "DT delayed reward"]
    assert len(comparison.rows) == 1


def test_what_only_one_conditioning_has_is_no_difference(tmp_path: Path) -> None:
    asked = {"name": "return", "scale": 1.0, "clip": False}
    write_run(tmp_path / "a", more={"conditioning": asked})
    write_run(tmp_path / "b", targets=(None,), more={"conditioning": {"name": "none"}})
    assert compared(tmp_path).labels == ["BC (transformer)", "DT"]
    write_run(tmp_path / "c", more={"conditioning": {**asked, "scale": 2.0}})
    assert compared(tmp_path).labels == ["BC (transformer)", "DT scale 1.0", "DT scale 2.0"]


def test_what_follows_the_dataset_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "a", more={"conditioning": {"scale": 1000.0}})
    other = "d4rl/walker2d-medium-v2"
    write_run(tmp_path / "b", dataset=other, more={"conditioning": {"scale": 500.0}})
    assert compared(tmp_path).labels == ["DT"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"episodes": 8}, "episodes"),
        ({"targets": (1800.0,)}, "targets"),
        ({"env_id": "Hopper-v5"}, "env_id"),
        ({"precision": "bf16"}, "acting: bf16 against fp32"),
        ({"source": BUNDLED}, "source"),
    ],
)
def test_another_protocol_is_kept_apart_and_said(tmp_path: Path, change: dict, named: str) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, **change)
    comparison = compared(tmp_path)
    assert list(comparison.rows) == ["d4rl/hopper-medium-v2 [1]", "d4rl/hopper-medium-v2 [2]"]
    assert all(len(group.runs) == 1 for group in comparison.groups.values())
    (note,) = comparison.notes
    assert "are separate" in note
    assert named in note


def test_a_seed_twice_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 0)
    (note,) = compared(tmp_path).notes
    assert "share seed 0" in note


@pytest.mark.parametrize(
    ("dataset", "source", "comparable"),
    [
        ("d4rl/hopper-medium-v2", D4RL, True),
        ("moved/hopper-medium.hdf5", D4RL.replace("_medium-v2", "-medium"), True),
        ("d4rl/walker2d-medium-v2", D4RL, False),  # the name contradicts the source
        ("hopper_medium-v2.hdf5", D4RL.replace("5bdf1bc4a713", "0123456789ab"), False),
        ("x.hdf5+random", f"{D4RL} + bundled collection hopper-random", False),
        (
            "d4rl/hopper-medium-v0",
            "D4RL-layout file hopper_medium.hdf5, sha256 3e6530f00ba1",
            False,
        ),
        ("bundled/hopper-medium", BUNDLED, False),
        ("minari/mujoco/hopper/medium-v0", "Minari dataset mujoco/hopper/medium-v0", False),
        ("d4rl/pen-human-v1", "D4RL-layout file x.hdf5, sha256 209e345b2150", True),
        ("maze2d-umaze", "D4RL-layout file maze2d-umaze-sparse-v1.hdf5, sha256 0123456789ab", True),
    ],
)
def test_only_d4rls_newest_data_may_be_compared(
    tmp_path: Path, dataset: str, source: str, comparable: bool
) -> None:
    write_run(tmp_path / "run", dataset=dataset, source=source)
    (protocol,) = compared(tmp_path).rows.values()
    assert protocol.comparable is comparable


def test_over_tasks(tmp_path: Path) -> None:
    for seed in range(3):
        for task in ("hopper-medium", "hopper-expert"):
            name = f"d4rl/{task}-v2"
            write_run(tmp_path / f"dt-{task}-{seed}", seed, 2000, dataset=name)
            write_run(
                tmp_path / f"bc-{task}-{seed}", seed, 1000, dataset=name, policy=BC, targets=(None,)
            )
    write_run(tmp_path / "alone", 0, dataset="d4rl/hopper-random-v2", policy={"name": "tt"})
    raw = write_run(tmp_path / "raw", 0, dataset="bundled/reacher2d-medium", reference=None)
    assert raw.is_dir()
    comparison = compared(tmp_path)
    methods, tasks = shared(comparison)
    assert methods == ["BC (MLP)", "DT"]
    assert tasks == ["d4rl/hopper-expert-v2", "d4rl/hopper-medium-v2"]
    found = {(s.label, s.statistic): s for s in summaries(comparison, np.random.default_rng(0))}
    pooled = [score for task in tasks for score in comparison.normalized("DT")[task]]
    iqm = found["DT", "IQM"]
    assert iqm.estimate == pytest.approx(stats.trim_mean(pooled, 0.25))
    assert iqm.interval is not None
    assert iqm.interval[0] < iqm.estimate < iqm.interval[1]
    assert iqm.coverage is not None
    assert 0.6 < iqm.coverage < 0.95  # with three seeds it is below the nominal value
    (pair,) = improvements(comparison, np.random.default_rng(0))
    assert (pair.over, pair.under, pair.probability, pair.tasks) == ("BC (MLP)", "DT", 0.0, 2)


def test_one_seed_has_no_interval_over_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for summary in summaries(compared(tmp_path), np.random.default_rng(0)):
        assert summary.interval is None
        assert summary.coverage is None
