"""Tests of the pool of worker processes."""

import os
import signal
from typing import NoReturn

import pytest

from decision_seq.machine import workers
from decision_seq.machine.pool import Pool, process_pool
from decision_seq.types import UserError


def square(number: int) -> int:
    return number**2


def fail(error: Exception) -> NoReturn:
    raise error


def stop(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    signal.pause()
    raise AssertionError


def test_jobs_are_done_whatever_their_order() -> None:
    with process_pool(2) as pool:
        jobs = [pool.submit(square, number) for number in range(20)]
        assert [job.result() for job in reversed(jobs)] == [n**2 for n in reversed(range(20))]
        assert len(pool.processes) == 2


def test_an_error_of_a_job_is_ours() -> None:
    with process_pool(1) as pool, pytest.raises(KeyError, match="a bug") as caught:
        pool.submit(fail, KeyError("a bug")).result()
    assert "test_pool.py" in caught.value.__notes__[0]
    with process_pool(1) as pool, pytest.raises(UserError, match="mend this"):
        pool.submit(fail, UserError("mend this")).result()


class Odd(Exception):
    """An error that cannot be made again from its pickle."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def fail_oddly() -> NoReturn:
    raise Odd("this", "that")


def test_an_error_that_cannot_be_sent_is_named() -> None:
    with process_pool(1) as pool, pytest.raises(RuntimeError, match="Odd: this and that"):
        pool.submit(fail_oddly).result()


@pytest.mark.parametrize(
    ("number", "seconds", "words"),
    [
        (signal.SIGKILL, "1800", "was killed"),
        (signal.SIGSTOP, "0.5", "no sign of life for 0.5 s"),
    ],
)
def test_a_worker_that_is_killed_or_stopped_ends_the_wait(
    number: int, seconds: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(workers.SILENCE, seconds)
    with process_pool(2) as pool:
        jobs = [pool.submit(stop, number), pool.submit(square, 3)]
        with pytest.raises(UserError, match=words):
            [job.result() for job in jobs]
    assert not any(process.is_alive() for process in pool.processes)


def test_jobs_under_way_do_not_delay_the_end() -> None:
    def interrupted() -> None:
        with process_pool(2) as pool:
            pools.append(pool)
            for _ in range(4):
                pool.submit(stop, signal.SIGURG)  # it waits for ever
            raise KeyboardInterrupt

    pools: list[Pool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(process.is_alive() for process in pools[0].processes)


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "1e9"])
def test_a_limit_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.SILENCE, text)
    with pytest.raises(UserError, match="no number of seconds; unset it"):
        workers.most_silence()
