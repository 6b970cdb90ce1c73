"""Tests of a launch whose other processes do not come."""

import os
import socket
import subprocess
import sys

import pytest

from decision_seq.training import waiting
from decision_seq.types import UserError
from tests.waiting import LIMIT

STARTS = """
import sys
from decision_seq.cli import main
from decision_seq.training import waiting

waiting.ANNOUNCE_SECONDS = 0.0
sys.exit(main(["train", "--dataset", "x", "--output", "run"]))
"""


def launched(tmp_path: object, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", STARTS],
        cwd=str(tmp_path),
        env={**os.environ, "WORLD_SIZE": "2", waiting.LIMIT: "1", **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.parametrize(("rank", "host"), [("0", "127.0.0.1"), ("1", "no.such.host.invalid")])
def test_variables_left_from_another_job_are_named(rank: str, host: str, tmp_path: object) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ended = launched(tmp_path, RANK=rank, LOCAL_RANK=rank, MASTER_ADDR=host, MASTER_PORT=port)
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if "unset WORLD_SIZE RANK" in line]
    assert said[0].startswith("waiting for the other processes of this launch")
    assert f"process {rank} of 2, which meet at {host}:{port}" in said[0]
    assert "did not come in 1 s" in said[1]
    assert "Traceback" not in ended.stderr
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "9" * 5000, "²"])
def test_a_limit_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(waiting.LIMIT, text)
    with pytest.raises(UserError, match="no number of seconds; unset it"):
        waiting.limit()
