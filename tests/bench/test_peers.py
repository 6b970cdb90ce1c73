"""Tests of the driver of `make bench-peers`, with our worker and fake ones that fail."""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.waiting import LIMIT

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "peers"
ABOUT = """
import json, os, sys
pipe = os.fdopen(int(sys.argv[3]), "w", buffering=1)
print("a library's greeting")
about = {"version": "1", "torch": "2", "threads": 1, "processor": "p", "parameters": 7}
about |= {"parts": ["update"], "notes": "fake"}
"""
ANSWERS = (
    ABOUT
    + """
print(json.dumps(about), file=pipe)
for line in sys.stdin:
    part, updates = line.split()
    print(json.dumps({"seconds": 0.5 * int(updates), "loss": 1.0}), file=pipe)
"""
)
BREAKS = (
    ABOUT
    + """
print(json.dumps(about), file=pipe)
sys.stdin.readline()
raise AttributeError("its API has changed")
"""
)
HANGS = ABOUT + "sys.stdin.read()"
CHATTERS = ABOUT + "print('hello', file=pipe); sys.stdin.read()"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `experiments/peers/bench.py`, which imports modules of its folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("bench", "workers", "protocol"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("bench")
    for name in ("bench", "workers", "protocol"):  # restored after the test
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    return module


def options(driver: ModuleType, folder: Path, *more: str) -> argparse.Namespace:
    given = ["--rounds", "1", "--updates", "1", "--threads", "1", "--folder", str(folder)]
    return driver.parse([*given, "--timeout", f"{LIMIT:.0f}", *more])


def fake(driver: ModuleType, folder: Path, name: str, source: str):
    (folder / f"{name}_worker.py").write_text(source)
    return driver.Peer(name, folder)


def test_the_others_go_on(driver: ModuleType, tmp_path: Path) -> None:
    """Each that fails is named with its reason; what a library prints is no answer."""
    sources = {"answers": ANSWERS, "breaks": BREAKS, "chatters": CHATTERS}
    peers = [fake(driver, tmp_path, name, source) for name, source in sources.items()]
    left_out: dict[str, str] = {}
    workers = driver.start(peers, options(driver, tmp_path), tmp_path / "none.npz", left_out)
    hangs, brief = (
        fake(driver, tmp_path, "hangs", HANGS),
        options(driver, tmp_path, "--timeout", "1"),
    )
    assert driver.start([hangs], brief, tmp_path / "none.npz", left_out) == {}
    try:
        assert list(workers) == ["answers", "breaks"]
        assert left_out["hangs"].startswith("gave no answer within 1 s")
        assert left_out["chatters"].startswith("answered 'hello'")
        seconds = driver.measure(workers, rounds=3, updates=4, left_out=left_out)
        assert seconds == {"update": {"answers": [0.5] * 3}, "step": {}}
        assert "ended with code 1: AttributeError: its API has changed" in left_out["breaks"]
    finally:
        for worker in workers.values():
            worker.stop()


def test_a_peer_that_cannot_be_installed_is_named(driver: ModuleType, tmp_path: Path) -> None:
    peer = fake(driver, tmp_path, "absent", ANSWERS)
    peer.requirements.write_text("decision-seq-no-such-package==1\n")
    left_out: dict[str, str] = {}
    chosen = options(driver, tmp_path / "environments", "--pip-args=--no-index")
    assert not driver.start([peer], chosen, tmp_path / "none.npz", left_out)
    assert left_out["absent"].startswith("cannot be installed: ERROR: ")
    assert "decision-seq-no-such-package==1" in left_out["absent"]


def test_ours_beside_another(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our worker makes both kinds of update; the ratio is to its time in the same round."""
    monkeypatch.setattr(driver, "EPISODES", 2)
    monkeypatch.setattr(driver, "WARMUP_ROUNDS", 0)
    peer = fake(driver, tmp_path, "answers", ANSWERS)
    result = driver.bench([peer], options(driver, tmp_path))
    assert result["left_out"] == {}
    ours, theirs = result["parts"]["update"]
    assert (ours["name"], ours["ratio"], ours["parameters"]) == ("decision_seq", 1.0, 726_019)
    assert theirs["ratio"] == pytest.approx(500 / ours["median_ms"])
    assert [row["name"] for row in result["parts"]["step"]] == ["decision_seq"]
    shown = driver.text(result)
    assert f"{theirs['ratio']:.2f}" in shown
    assert "answers: fake" in shown


@pytest.mark.parametrize(("source", "code"), [(ANSWERS, 0), (BREAKS, 2)])
def test_without_any_peer_it_fails(
    driver: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    code: int,
) -> None:
    monkeypatch.setattr(driver, "EPISODES", 1)
    monkeypatch.setattr(driver, "OURS", fake(driver, tmp_path, "ours", ANSWERS))
    monkeypatch.setattr(driver, "PEERS", {"peer": fake(driver, tmp_path, "peer", source)})
    assert driver.main(["peer", "--rounds", "1", "--folder", str(tmp_path)]) == code
    assert ("peer: left out, its worker ended" in capsys.readouterr().out) == (code == 2)


@pytest.mark.parametrize("wrong", [["jaxrl"], ["--rounds", "0"], ["--threads", "x"]])
def test_what_is_asked_is_checked(
    driver: ModuleType, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        driver.parse(wrong)
    assert ended.value.code == 2
    assert wrong[-1] in capsys.readouterr().err
