"""Tests of published numbers: cells average to the figures that their sources print."""

import pytest

from decision_seq.report.published import Published, published, task_name

LOCOMOTION = [
    f"{robot}-{data}"
    for robot in ("halfcheetah", "hopper", "walker2d")
    for data in ("medium", "medium-replay", "medium-expert")
]


@pytest.mark.parametrize(
    ("method", "by", "protocol", "average"),
    [
        ("DT", "the paper", "not said", 74.7),
        ("DT", "CORL", "last", 73.84),
        ("DT", "CORL", "best evaluation", 77.49),
        ("DT", "d3rlpy", "last", 68.8),
        ("DT", "d3rlpy", "best evaluation", 80.8),
        ("BC best 10 %", "CORL", "last", 69.29),
        ("BC", "the Decision Transformer paper", "not said", 47.7),  # printed as 46.4: swapped
        ("CQL", "the Decision Transformer paper", "not said", 63.9),
        ("BEAR", "the Decision Transformer paper", "not said", 48.2),
        ("BRAC-v", "the Decision Transformer paper", "not said", 36.9),
        ("AWR", "the Decision Transformer paper", "not said", 34.3),
        ("MBOP", "the Trajectory Transformer repository", "not said", 47.8),
        ("CQL", "the Trajectory Transformer repository", "not said", 77.6),
        ("TT quantile", "its repository", "not said", 78.9),
        ("Decision ConvFormer", "the Decision ConvFormer paper", "best of six targets", 82.2),
        ("ODC", "the Decision ConvFormer paper", "not said", 83.4),
    ],
)
def test_averages_are_those_of_the_sources(
    method: str, by: str, protocol: str, average: float
) -> None:
    (entry,) = [
        e
        for e in published()
        if (e.method, e.by, e.protocol) == (method, by, protocol)
        and set(LOCOMOTION) <= set(e.scores)
    ]
    found = sum(entry.scores[task][0] for task in LOCOMOTION) / len(LOCOMOTION)
    assert found == pytest.approx(average, abs=0.051)


def test_every_entry_says_what_must_be_known() -> None:
    for entry in published():
        assert entry.scores
        assert all((entry.method, entry.by, entry.source, entry.data, entry.environment))
        assert entry.protocol in ("last", "best evaluation", "best of six targets", "not said")


def said(method: str, task: str) -> list[Published]:
    return [e for e in published() if e.method == method and task in e.scores]


def test_known_slips_stand_beside_the_numbers() -> None:
    def caveats(entries: list[Published]) -> str:
        return " ".join(caveat for e in entries for caveat in e.caveats)

    assert "swapped" in caveats(said("BC", "walker2d-medium"))
    assert "slip" in caveats(said("BC, delayed reward", "hopper-medium-expert"))
    assert "one target only" in caveats(said("DT", "halfcheetah-medium-expert"))
    (ours,) = [e for e in said("BC best 10 %", "hopper-medium") if not e.verified]
    assert "UNVERIFIED" in ours.title


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("hopper-medium", "hopper-medium"),
        ("bundled/hopper-medium", "hopper-medium"),
        ("d4rl/walker2d-medium-replay-v2", "walker2d-medium-replay"),
        ("minari/mujoco/hopper/medium-v0", "hopper-medium"),
        ("/data/hopper_medium-v2.hdf5", "hopper-medium"),
    ],
)
def test_names_of_the_literature(dataset: str, task: str) -> None:
    assert task_name(dataset) == task
