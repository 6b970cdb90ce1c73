"""Tests of what the clients of Hugging Face and Minari are given and return."""

import itertools
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from decision_seq.datasets.fetching.remote import require_within, watched
from decision_seq.datasets.hub import remote as hub
from decision_seq.types import Reporter, UserError


def test_a_client_that_would_never_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=1000)
    now = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("decision_seq.datasets.fetching.remote.time", now)
    with (
        pytest.raises(UserError, match="fetch x: hardly a byte came in 300 s; run again later"),
        watched(tmp_path, "fetch x", 10, Reporter()),
    ):
        signal.pause()


def test_ctrl_c_during_a_download_is_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), watched(tmp_path, "fetch x", 10, Reporter()):
        signal.raise_signal(signal.SIGINT)


CLIMBS = ["../x.parquet", "a/../../x", "/etc/x", "..", "a\\..\\x", "a\0b", ""]


@pytest.mark.parametrize("path", CLIMBS)
def test_a_listing_that_leads_out_of_its_folder_is_refused(path: str) -> None:
    entries = [SimpleNamespace(path=name, size=5) for name in ("data/train.parquet", path)]
    api = SimpleNamespace(list_repo_tree=lambda *_, **__: iter(entries))
    with pytest.raises(UserError, match=r"its listing names the file .*, which leads elsewhere"):
        hub._sizes("OWNER/NAME", "main", api)


@pytest.mark.parametrize("path", ["x.parquet", "a/b..c/x", "..x", "a/x y.parquet"])
def test_other_paths_are_taken(path: str) -> None:
    require_within("hub/OWNER/NAME", path)
