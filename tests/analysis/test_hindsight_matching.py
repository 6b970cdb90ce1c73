"""Tests of hindsight matching: targets from the data, schedules, distances, output."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decision_seq.analysis import hindsight_matching
from decision_seq.analysis.hindsight_matching import (
    Target,
    choose,
    compare,
    match_checkpoint,
    measure_of,
    roll_out,
)
from decision_seq.analysis.hindsight_matching_report import matching_text
from decision_seq.cli import main
from decision_seq.datasets import open_dataset
from decision_seq.evaluation import open_checkpoint
from decision_seq.evaluation.rollout import EpisodeResult
from decision_seq.policies import DecisionTransformer
from decision_seq.sequences.conditioning.histogram import Histogram
from decision_seq.sequences.conditioning.schedule import Schedule
from decision_seq.sequences.selection import held_out
from decision_seq.types import Episode, Transition, UserError

LENGTHS = (12, 30, 7, 25, 18, 40, 9, 21, 33, 15)
HELD = 0.5
CDT = {"name": "histogram", "feature": "x_velocity", "bins": 6}
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, write_d4rl: Callable[..., Path]) -> Train:
    """A run of three updates."""
    data = write_d4rl(LENGTHS)

    def train(conditioning: dict[str, Any], held: float = HELD) -> Path:
        output = tmp_path / f"{conditioning['name']}-{held}"
        overrides = {
            **{f"conditioning.{key}": value for key, value in conditioning.items()},
            "policy.context_length": 4,
            **{f"policy.backbone.{key}": 1 for key in ("layers", "heads")},
            "policy.backbone.width": 8,
            "train.steps": 3,
            "train.batch_size": 4,
            "evaluation.episodes": 0,
            "held_out": held,
        }
        arguments = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
        assert main(["train", "--dataset", str(data), "--output", str(output), *arguments]) == 0
        return output

    return train


def episode_of(target: Target) -> Episode:
    ((episode, steps),) = target.parts
    assert steps == slice(None)
    return episode


def test_a_schedule_is_the_targets_own() -> None:
    labels = [np.arange(6, dtype=np.float32).reshape(3, 2), np.full((5, 2), 9, np.float32)]
    schedule, targets = Schedule(labels), np.array([0.0, 1.0, 0.0])
    nothing = Transition(*(np.zeros((3, 1)),) * 4)
    assert schedule.size == 2
    assert schedule.prompt(targets).tolist() == [[0, 1], [9, 9], [0, 1]]
    # after steps 0, 3 and 1; after a target's end its last label is repeated
    found = schedule.advance(schedule.prompt(targets), targets, nothing, np.array([0, 3, 1]))
    assert found.tolist() == [[2, 3], [9, 9], [4, 5]]
    found = schedule.advance(found, targets, nothing, np.array([2, 4, 900]))
    assert found.tolist() == [[4, 5], [9, 9], [4, 5]]


@pytest.mark.parametrize(
    "conditioning", [CDT, {"name": "feature", "feature": "x_velocity"}, {"name": "return"}]
)
def test_a_policy_is_shown_the_targets_labels(
    conditioning: dict[str, Any], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step t of every episode has the target's label of step t, whatever the episode did."""
    opened = open_checkpoint(train(conditioning), "cpu", episodes=1, workers=1)
    shown: list[tuple[int, list[float]]] = []
    honest = DecisionTransformer.decide

    def decide(self, batch, *rest):
        newest = int(batch.lengths[0]) - 1  # the only episode of a group is in row 0
        timestep = int(batch.timesteps[0, newest])
        shown.append((timestep, batch.conditions[0, newest].tolist()))
        return honest(self, batch, *rest)

    monkeypatch.setattr(DecisionTransformer, "decide", decide)
    monkeypatch.setattr(
        "decision_seq.evaluation.acting.slides", lambda *_: False
    )  # acts by `decide`
    store = open_dataset(opened.loaded.facts.dataset)
    measure = measure_of(opened.evaluation.conditioning, None, store)
    (target,) = choose(store, measure, HELD, 1)
    how, (episodes,) = roll_out(opened, [target], measure)
    assert how == "schedule"
    labels = opened.evaluation.conditioning.relabel(episode_of(target))
    assert len(shown) == episodes[0].length > 4  # the window has slid
    for timestep, condition in shown:
        assert condition == labels[min(timestep, len(labels) - 1)].tolist()


def test_targets_are_held_out_and_evenly_spaced(train: Train) -> None:
    store = open_dataset(str(open_checkpoint(train(CDT), "cpu").loaded.facts.dataset))
    measure = Histogram("x_velocity", 6).resolved(store)
    out = np.flatnonzero(held_out(len(LENGTHS), HELD))
    assert len(out) == 5
    means = {int(i): store.episode(int(i)).observations[: LENGTHS[i], 5].mean() for i in out}
    ranked = sorted(means, key=means.get)
    for count, expected in ((5, ranked), (1, ranked[2:3]), (2, [ranked[0], ranked[4]])):
        chosen = choose(store, measure, HELD, count)
        assert [target.index for target in chosen] == expected
    for target in chosen:
        assert target.shares.tolist() == pytest.approx(
            measure.relabel(episode_of(target))[0].tolist()
        )
    assert len(choose(store, measure, 0.0, 10)) == 10
    with pytest.raises(UserError, match="5 episodes that were held out"):
        choose(store, measure, HELD, 6)


def test_distances_are_as_defined(train: Train) -> None:
    stats = pytest.importorskip("scipy.stats")
    store = open_dataset(str(open_checkpoint(train(CDT), "cpu").loaded.facts.dataset))
    measure = Histogram("x_velocity", 6, low=-8.0, high=10.0)
    measure = measure.resolved(store)
    targets = choose(store, measure, HELD, 3)
    rng = np.random.default_rng(0)
    results = [
        [EpisodeResult(i, 0.0, n, rng.normal(at, 2, n)) for i, n in enumerate((50, 200))]
        for at in (0, 1, 5)
    ]
    found = compare(targets, results, measure, measure.shares(measure.of_store(store)))
    centres = measure.edges[:-1] + 1.5
    for target, episodes, told in zip(targets, results, found["targets"], strict=True):
        target_counts = np.histogram(
            episode_of(target).observations[: told["steps"], 5].clip(-8, 10), 6, (-8, 10)
        )[0]

        def distance(*traces: np.ndarray, target_counts: np.ndarray = target_counts) -> float:
            counts = np.histogram(np.concatenate(traces).clip(-8, 10), 6, (-8, 10))[0]
            return stats.wasserstein_distance(centres, centres, counts, target_counts)

        own = [distance(episode.trace) for episode in episodes]
        assert told["distance"] == pytest.approx(distance(*(e.trace for e in episodes)))
        assert told["episode_distances"] == pytest.approx(own)
        assert told["episode_distance"] == pytest.approx(np.mean(own))
        whole = store.columns["observations"].array[:, 5]
        assert told["data_distance"] == pytest.approx(distance(whole))
    distances = [told["distance"] for told in found["targets"]]
    assert found["distance"] == pytest.approx(np.mean(distances))
    low, high = found["interval_95"]
    half = 4.302653 * np.std(distances, ddof=1) / np.sqrt(3)  # t(2, 0.975) of any table
    assert high == pytest.approx(np.mean(distances) + half, rel=1e-5)
    assert low == pytest.approx(max(np.mean(distances) - half, 0), rel=1e-4)


def test_the_verb_writes_what_it_prints(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures = train(CDT), tmp_path / "figures"
    capsys.readouterr()
    chosen = ["--targets", "2", "--episodes", "9", "--workers", "2", "--output", str(figures)]
    assert main(["match", str(run), *chosen, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((figures / "matching.json").read_text()) == found
    assert (figures / "matching.png").stat().st_size > 10_000
    assert (found["condition"], found["feature"]) == ("schedule", "x_velocity (observation 5)")
    assert len({*found["targets"][0]["obtained"]["returns"]}) == 9
    alone = match_checkpoint(run, 2, episodes=9, workers=1)
    assert json.loads(json.dumps(alone)) == found  # on any number of processes
    printed = matching_text(found)
    assert "mean distance over 2 target(s)" in printed
    assert found["targets"][1]["name"] in printed


def test_a_policy_that_nothing_conditions_is_rolled_out_once(train: Train) -> None:
    found = match_checkpoint(train({"name": "none"}), 3, episodes=2, workers=1)
    assert found["condition"] == "none"
    assert found["feature"] == "x_velocity (observation 5)"  # as for the other policies
    assert len(found["edges"]) == 31
    first, *others = (target["obtained"] for target in found["targets"])
    assert others == [first, first]
    assert len({target["distance"] for target in found["targets"]}) == 3


def test_two_modes_are_asked_for_from_beginning_to_end(train: Train, tmp_path: Path) -> None:
    run = train(CDT)
    targets = match_checkpoint(run, 4, episodes=1, workers=1)["targets"]
    mixed = match_checkpoint(run, 4, mixture=(0, 3), episodes=1, workers=1)
    (only,) = mixed["targets"]
    assert mixed["condition"] == "constant"
    halves = np.mean([targets[0]["shares"], targets[3]["shares"]], 0)
    np.testing.assert_allclose(only["shares"], halves)
    assert only["obtained"]["returns"] != targets[0]["obtained"]["returns"]
    file = tmp_path / "two.json"
    file.write_text(json.dumps((20 * halves).tolist()))  # counts are shares too
    given = match_checkpoint(run, 4, histogram=file, episodes=1, workers=1)
    assert given["targets"][0]["obtained"] == only["obtained"]
    assert given["interval_95"] is None


@pytest.mark.parametrize("conditioning", [CDT, {"name": "return"}])
def test_two_halves_are_followed_one_behind_the_other(
    conditioning: dict[str, Any], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(conditioning)
    labels: list[np.ndarray] = []

    def noted(own: list[np.ndarray]) -> Schedule:
        labels.extend(own)
        return Schedule(own)

    monkeypatch.setattr(hindsight_matching, "Schedule", noted)
    whole = match_checkpoint(run, 4, episodes=1, workers=1)
    own = {target["episode"]: row for target, row in zip(whole["targets"], labels, strict=True)}
    first, last = (whole["targets"][number] for number in (0, 3))
    labels.clear()
    found = match_checkpoint(run, 4, splice=(0, 3), episodes=1, workers=1)
    middle = min(first["steps"], last["steps"]) // 2
    assert found["condition"] == "schedule"
    (only,), (asked,) = found["targets"], labels
    joined = [*own[first["episode"]][:middle], *own[last["episode"]][middle:]]
    np.testing.assert_array_equal(asked, joined)
    assert only["steps"] == last["steps"]
    opened = open_checkpoint(run, "cpu")
    store = open_dataset(str(opened.loaded.facts.dataset))
    measure = measure_of(opened.evaluation.conditioning, None, store)
    halves = [
        measure.of_episode(store.episode(target["episode"]))[steps]
        for target, steps in ((first, slice(middle)), (last, slice(middle, None)))
    ]
    np.testing.assert_allclose(only["shares"], measure.shares(np.concatenate(halves)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--splice", "5,0"], "--splice 5,0: targets are numbered from 0 to 4"),
        (["--targets", "6"], "5 episodes that were held out"),
        (["--targets", "0"], "--targets 0"),
        (["--episodes", "0"], "at least 1 is needed"),
        (["--mixture", "0,5"], "targets are numbered from 0 to 4"),
        (["--feature", "speed"], "'speed' is unknown"),
        (["--histogram", "nowhere.json"], "does not exist"),
        (["--feature", "3", "--mixture", "0,1"], "not conditioned on histograms of the feature"),
    ],
)
def test_what_cannot_be_matched_is_said(train: Train, options, named, capsys) -> None:
    run = train(CDT)
    capsys.readouterr()
    assert main(["match", str(run), *options]) == 2
    assert named in capsys.readouterr().err
    assert not (run / "matching.json").exists()


def test_other_data_and_bad_files_are_said(
    train: Train, tmp_path: Path, write_d4rl: Callable[..., Path]
) -> None:
    run = train(CDT)
    other = write_d4rl((20, 30), name="hopper_other-v2.hdf5")
    with pytest.raises(UserError, match="not the data that"):
        match_checkpoint(run, 1, dataset=str(other))
    file = tmp_path / "shares.json"
    for text, named in (
        ("{", "no JSON list"),
        ("[1, 2]", "2 numbers for 6 bins"),
        ("3", "no JSON"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=named):
            match_checkpoint(run, histogram=file)
    with pytest.raises(UserError, match="not conditioned on histograms"):
        match_checkpoint(train({"name": "return"}), mixture=(0, 1), episodes=1)
    told = match_checkpoint(train(CDT, held=0.0), 1, episodes=1, workers=1)
    assert told["notes"] == ["the run held no episode out: its targets were trained on"]
