import pytest

from decision_seq.bench.sampling import bench_sampling, sampling_text


def test_a_store_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("decision_seq.bench.sampling.SECONDS", 0.0)  # one batch of each size
    result = bench_sampling(30_000)
    assert result["transitions"] == 30_000
    assert result["statistics_relative_error"] < 1e-6
    assert min(result["windows_per_second"].values()) > 0
    assert "30,000" in sampling_text(result)


@pytest.mark.slow
def test_twenty_million_transitions_are_light() -> None:
    """What a large store promises of memory; `bench sample` tells of time."""
    result = bench_sampling(20_000_000)
    assert result["anonymous_memory_mb"] < 300
    assert min(result["windows_per_second"].values()) > 0
    assert result["statistics_relative_error"] < 1e-6
