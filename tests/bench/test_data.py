from decision_seq.bench.data import bench_data, data_text


def test_a_store_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("decision_seq.bench.data.SECONDS", 0.2)
    result = bench_data(30_000)
    assert result["transitions"] == 30_000
    assert result["statistics_relative_error"] < 1e-6
    assert min(result["windows_per_second"].values()) > 0
    assert "30,000" in data_text(result)
