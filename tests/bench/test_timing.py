"""Tests of timing: interleaved and paired rounds, and the machine's description."""

import numpy as np
import pytest

from decision_seq.bench import timing
from decision_seq.bench.timing import Timed, interleaved, machine, machine_text, rows_text


def test_every_entrant_takes_its_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def entrant(name: str, seconds: float):
        def run() -> int:
            calls.append(name)
            clock[0] += seconds * len(calls)  # the machine slows down steadily
            return len(calls)

        return run

    timed = interleaved({"a": entrant("a", 1.0), "b": entrant("b", 2.0)}, 2, 1, turn=2)
    assert calls == list("aabb" * 3)
    np.testing.assert_allclose(timed["a"].seconds, [5.5, 9.5])
    np.testing.assert_allclose(timed["b"].seconds, [15.0, 23.0])
    assert timed["a"].returned == [[5, 6], [9, 10]]


def test_ratios_are_taken_round_by_round() -> None:
    base, quick = Timed(np.array([2.0, 20, 4]), []), Timed(np.array([1.0, 10, 4]), [])
    row = quick.row(base)
    assert row == {"median_ms": 4000, "min_ms": 1000, "max_ms": 10_000, "speed": 2.0}
    assert quick.share_of(base) == 0.5
    assert base.row(base)["speed"] == 1.0


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(timing, "CPUINFO", path)
    said = "model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx512f{}\n"
    for flags, able in ((" avx512_bf16", True), (" amx_bf16 x", True), (" avx512_bf16x", False)):
        path.write_text(said.format(flags))
        facts = machine()
        assert (facts["processor"], facts["bf16"]) == ("Some CPU @ 2 GHz", able)
    text = machine_text(facts)
    for named in ("Some CPU @ 2 GHz", "no bf16 arithmetic", facts["date"], facts["torch"], "load"):
        assert named in text


def test_what_a_row_lacks_is_a_dash() -> None:
    text = rows_text([{"name": "a", "x": 1.0}, {"name": "b", "x": None}], {"x": ("ms", ".1f")})
    assert [line.split() for line in text.splitlines()[2:]] == [["a", "1.0"], ["b", "-"]]
