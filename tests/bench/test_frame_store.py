from collections.abc import Callable

import pytest

from decision_seq.bench import frame_store as frames
from decision_seq.datasets.store import EpisodeStore
from decision_seq.datasets.store.frames import CACHE_MEBIBYTES
from decision_seq.types import UserError


def test_a_store_of_frames_is_measured(monkeypatch) -> None:
    monkeypatch.setattr("decision_seq.bench.frame_store.SECONDS", 0.0)  # one batch of each size
    result = frames.bench_frames(5_000)
    assert result["transitions"] == 5_000
    assert result["bytes_per_transition"] < 84 * 84 / 10
    roomy, narrow = result["measured"]
    assert min(*roomy["windows_per_second"].values(), *narrow["windows_per_second"].values()) > 0
    assert (roomy["frame_memory_mib"], narrow["frame_memory_mib"]) == (CACHE_MEBIBYTES, 1)
    assert "5,000" in frames.frames_text(result)


def test_a_store_may_be_given(
    make_frame_store: Callable[..., EpisodeStore], store: EpisodeStore, monkeypatch
) -> None:
    monkeypatch.setattr("decision_seq.bench.frame_store._measure", lambda *how: None)
    with pytest.raises(UserError, match="holds no frames"):
        frames.bench_frames(0, str(store.path))
