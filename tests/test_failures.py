"""What a command prints and returns where it fails: one line, whatever the error."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from decision_seq import cli
from decision_seq.commands import streams
from decision_seq.commands.failures import BUG, DEBUG
from decision_seq.types import UserError
from tests.waiting import LIMIT

Fails = Callable[[Exception], None]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fails:
    """Make `data list` raise an error."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def make(error: Exception) -> None:
        def run(*_: object) -> NoReturn:
            raise error

        monkeypatch.setattr("decision_seq.datasets.catalog.catalog", run)

    return make


BUGS = [
    KeyError("observations"),
    RuntimeError("two\nlines"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range"),
]


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("cause", "code", "line"),
    [
        (True, 2, "decision-seq: it fails"),
        (False, BUG, "decision-seq: unexpected error: Speechless (the full report is in "),
    ],
)
def test_an_error_without_a_message_is_one_line(
    cause: bool, code: int, line: str, fails: Fails, capsys: pytest.CaptureFixture
) -> None:
    error: Exception = Speechless()
    if cause:
        error = UserError("it fails")
        error.__cause__ = Speechless()
    fails(error)
    assert cli.main(["data", "list"]) == code
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_is_one_line_and_a_report(
    error: Exception, fails: Fails, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    fails(error)
    assert cli.main(["data", "list", "--json"]) == BUG
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"decision-seq: unexpected error: {type(error).__name__}")
    (report,) = (tmp_path / "state" / "decision_seq").iterdir()
    assert str(report) in said.err
    assert report.stat().st_mode & 0o777 == 0o600
    text = report.read_text()
    assert "Traceback" in text
    assert "numpy: " in text
    assert "command: decision-seq 'data' 'list' '--json'" in text


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["--debug", "data", "list"], "0"),
        (["data", "--debug", "list"], "0"),
        (["data", "list", "--debug"], ""),
        (["data", "list"], "1"),
    ],
)
def test_the_traceback_can_be_shown(
    arguments: list[str],
    variable: str,
    fails: Fails,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DEBUG, variable)
    fails(KeyError("observations"))
    assert cli.main(arguments) == BUG
    assert "Traceback" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
    fails(UserError("mend this"))
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1] == "decision-seq: mend this"


def test_the_debug_option_is_none_of_the_configurations_keys() -> None:
    for arguments in (["--debug", "train", "--x.y", "1"], ["train", "--x.y", "1", "--debug"]):
        options, rest = cli.build_parser().parse_known_args(arguments)
        assert options.debug
        assert rest == ["--x.y", "1"]
    assert not cli.build_parser().parse_known_args(["train"])[0].debug


def test_a_report_goes_where_there_is_room(
    fails: Fails, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    fails(KeyError("x"))
    assert cli.main(["data", "list"]) == BUG
    assert f"in {tmp_path}/elsewhere/decision-seq-error-" in capsys.readouterr().err
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert cli.main(["data", "list"]) == BUG
    assert "Traceback" in capsys.readouterr().err  # nowhere to write: it is printed


def test_the_rank_that_fails_says_so(
    fails: Fails, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The launcher, which prints last, shows the line too."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    fails(UserError("every rank meets this"))
    assert cli.main(["data", "list"]) == 2
    assert capsys.readouterr().err == ""
    failure = ProcessFailure(1, 1, 2, str(tmp_path / "error.json"))
    assert failure.message == "every rank meets this"
    (tmp_path / "error.json").unlink()
    fails(KeyError("x"))
    assert cli.main(["data", "list"]) == BUG
    assert capsys.readouterr().err.startswith("decision-seq: rank 1: unexpected error: KeyError")
    failure = ProcessFailure(1, 1, BUG, str(tmp_path / "error.json"))
    assert failure.message.startswith("rank 1: unexpected error: KeyError")


def python(code: str, redirection: str = "", **variables: str) -> subprocess.CompletedProcess:
    """Run code in a shell command with a redirection."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, **variables},
    )


# A command that says much, shows a bar, and then leaves a file.
SAYS = """
import sys
import tempfile
from pathlib import Path
from decision_seq import cli
from decision_seq.commands import data
from decision_seq.commands.console import make_reporter

def run(options):
    reporter = make_reporter()
    for number in range(2000):
        reporter.say("a line of some length that fills a pipe")
    with reporter.bar("work", "step", 3) as bar:
        for number in range(3):
            bar.update()
            reporter.say("a line above the bar")
            bar.refresh()
    Path("{path}").touch()
    print("result")
    return 0

data.run_list = run
sys.exit(cli.main(["data", "list"]))
"""


@pytest.mark.parametrize(
    "redirection",
    ["2>/dev/full", "2>&-", "2> >(head -c 200 >/dev/null)", "2> >(true)", "2>&- 1>&- 0<&-"],
)
def test_messages_that_nobody_can_read_do_not_end_the_work(
    redirection: str, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    ended = python(SAYS.replace("{path}", str(done)), redirection)
    assert ended.returncode == 0, ended
    assert done.exists()
    assert ended.stdout == ("" if "1>" in redirection else "result\n")


def test_closed_streams_are_open_for_programs_that_are_started() -> None:
    code = "import subprocess, sys; from decision_seq.commands.streams import lenient_errors\n"
    code += "with lenient_errors():\n"
    code += "    run = [sys.executable, '-c', 'import os; [os.fstat(n) for n in range(3)]']\n"
    code += "    sys.exit(subprocess.run(run).returncode)"
    assert python(code, "2>&- 1>&- 0<&-").returncode == 0


def test_json_is_alone_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def noisy(options: object) -> int:
        sys.stdout.write("an environment says this")
        streams.results().write("{}\n")
        return 0

    monkeypatch.setattr("decision_seq.commands.data.run_list", noisy)
    assert cli.main(["data", "list", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "{}\n"
    assert "an environment says this" in printed.err


def test_results_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = SAYS.replace("{path}", str(done))
    ended = python(code, ">/dev/full")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == "decision-seq: No space left on device"
    assert python(code, "> >(true)").returncode == 0  # its reader has seen enough
    both = python(code, ">/dev/full 2>/dev/full")
    assert both.returncode == 2


WAITS = """
import signal, sys
from decision_seq import cli
from decision_seq.commands import data

def run(options):
    print("ready", flush=True)
    signal.pause()

data.run_list = run
sys.exit(cli.main(["data", "list"]))
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGINT],
)
def test_a_signal_ends_a_command(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(LIMIT) == 128 + number


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    ended = python(
        "import signal, os, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        + WAITS.replace("signal.pause()", "os.kill(os.getpid(), signal.SIGHUP); return 0")
    )
    assert (ended.returncode, ended.stderr) == (0, "")
