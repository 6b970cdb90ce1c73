"""Tests of worker processes: their results and their termination."""

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from decision_seq.machine.workers import SILENCE, Counters, Helpers
from decision_seq.types import UserError


def count_up(counters: Counters, until: int) -> Iterator[tuple[int, int]]:
    while (number := counters.take(0)) < until:
        yield os.getpid(), number


def fail(counters: Counters, error: Exception) -> Iterator[int]:
    yield 1
    raise error


def be_killed(counters: Counters) -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def never_end(counters: Counters) -> Iterator[int]:
    while True:
        yield os.getpid()


def test_they_share_the_work() -> None:
    with Helpers(2, count_up, Counters(1), 2000) as helpers:
        produced = list(helpers.produced(wait=True))
    assert sorted(number for _, number in produced) == list(range(2000))
    assert os.getpid() not in {process for process, _ in produced}


def test_their_errors_are_ours() -> None:
    def raised(error: Exception) -> Exception:
        with (
            pytest.raises(type(error)) as caught,
            Helpers(1, fail, Counters(1), error) as helpers,
        ):
            list(helpers.produced(wait=True))
        return caught.value

    told = raised(UserError("mend this"))
    assert str(told) == "mend this"
    assert "test_workers.py" in told.__notes__[0]  # for --debug
    assert "test_workers.py" in raised(KeyError("a bug")).__notes__[0]


def test_one_that_is_killed_is_noticed() -> None:
    with (
        pytest.raises(UserError, match="was killed"),
        Helpers(1, be_killed, Counters(1)) as helpers,
    ):
        list(helpers.produced(wait=True))


def be_stopped(counters: Counters) -> Iterator[int]:
    if counters.take(0) == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:  # the other one goes on
        yield 1


def test_one_that_is_stopped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SILENCE, "0.5")
    with (
        pytest.raises(UserError, match="gave no sign of life"),
        Helpers(2, be_stopped, Counters(1)) as helpers,
    ):
        for _ in helpers.produced(wait=True):
            pass


def test_counters_that_nobody_lets_go_of_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SILENCE, "0.01")
    counters = Counters(1)
    holder = threading.Thread(target=counters.values.get_lock().acquire)
    holder.start()
    holder.join()
    with pytest.raises(UserError, match="gave no sign of life"):
        counters.take(0)


def test_signals_to_a_whole_job_leave_their_end_to_whoever_asked() -> None:
    """A worker that ended on its own would look like a fault."""
    with Helpers(1, never_end, Counters(1)) as helpers:
        produced = helpers.produced(wait=True)
        process = next(produced)
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
            os.kill(process, number)
        assert {next(produced) for _ in range(5_000)} == {process}


class Signalled(BaseException):
    """Exception raised by a trainer's signal handler during an evaluation."""


def test_a_signal_that_ends_them_first_is_no_fault_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scheduler's SIGTERM may reach a helper sooner than the process that asked, which waits."""

    def receive(*_: object) -> None:
        raise Signalled

    def ask() -> None:
        with Helpers(1, never_end, Counters(1)) as helpers:
            produced = helpers.produced(wait=True)
            os.kill(next(produced), signal.SIGTERM)
            list(produced)

    waits = SimpleNamespace(
        sleep=lambda _: os.kill(os.getpid(), signal.SIGTERM), monotonic=lambda: 0.0
    )
    monkeypatch.setattr("decision_seq.machine.workers.time", waits)
    former = signal.signal(signal.SIGTERM, receive)
    try:
        with pytest.raises(Signalled):
            ask()
    finally:
        signal.signal(signal.SIGTERM, former)


def test_they_end_with_whoever_asked() -> None:
    with Helpers(1, never_end, Counters(1)) as helpers:
        process = next(helpers.produced(wait=True))
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_all_is_left_to_whoever_asked(number: int) -> None:
    """This holds during start-up too: a worker would print a traceback, or seem to be killed."""
    with Helpers(1, count_up, Counters(1), 3) as helpers:
        os.kill(helpers.processes[0].pid, number)
        assert [number for _, number in helpers.produced(wait=True)] == [0, 1, 2]
    assert not {signal.SIGINT, signal.SIGUSR1} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
