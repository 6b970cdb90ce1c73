"""No test may judge by the time that something takes: the machine may be busy."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.waiting import LIMIT

TESTS = Path(__file__).parent
CLOCK = re.compile(r"\b(?:sleep|perf_counter|monotonic|process_time)\b|\btime\.time\b|\bTimer\(")
LIMITS = re.compile(r"(?:timeout=|timeout\", \"|deadline=|\.(?:wait|join)\()(\d+(?:\.\d+)?)\b")
ALLOWED = {
    "test_api.py": "the import's processor time against its bar of 0.2 s",
    "test_page.py": "the processor time of a page of 100 runs against its bar of 10 s",
    "test_notebooks.py": "waits for a kernel within the one limit",
    "test_files.py": "a thread removes a folder while another looks for a free name",
    "test_peers.py": "one worker hangs for ever: a short limit only makes the test short",
    "test_remote.py": "the clock is the test's own",
    "test_startup.py": "times are compared with one another: which came first",
    "test_steps.py": "times are compared with one another: a part and the whole",
    "test_timing.py": "the clock is the test's own",
    "fuzz.py": "an input that takes 10 s of a process of its own is a fault",
    "oddworld.py": "a thread that outlives the command is the fault",
    "test_filled_disk.py": "a pause of random length before the disk is filled",
    "test_odd_runs.py": "a command that is sent a signal while it runs",
    "loopback.py": "a sleep is replaced by none",
    "test_clock.py": "the words that are looked for",
    "test_doctor.py": "the clock is the test's own",
    "test_doctor_alone.py": "the clock is the test's own",
    "test_download.py": "the clock is the test's own",
    "test_faults.py": "a clock that jumps, under a run whose times nobody looks at",
    "test_kills.py": "a pause of random length before a kill, after which all is compared",
    "test_workers.py": "the sleep is the test's own",
    "test_throughput.py": "the clock is the test's own",
    "waiting.py": "the one wait, with the one limit",
}


def offences(text: str) -> list[str]:
    """The lines that read a clock, sleep, or set a limit below that of `waiting`."""
    return [
        line
        for line in text.splitlines()
        if CLOCK.search(line) or any(float(found) < LIMIT for found in LIMITS.findall(line))
    ]


def test_the_tests_leave_the_clock_alone() -> None:
    files = {path.name: path.read_text() for path in TESTS.rglob("*.py")}
    found = {name: lines for name, text in files.items() if (lines := offences(text))}
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert found.keys() == ALLOWED.keys()  # nor is any file allowed what it does not do


def test_no_example_of_hypothesis_has_a_deadline() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("time.sleep(0.1)", True),
        ("assert time.perf_counter() - started < 5", True),
        ("subprocess.run(command, timeout=600)", True),
        ("process.wait(60)", True),
        ("thread.join(20.5)", True),
        ("@settings(deadline=200)", True),
        ("threading.Timer(0.1, act)", True),
        ("subprocess.run(command, timeout=LIMIT)", False),
        ("process.wait(1800)", False),
        ("process.wait()", False),
        ('", ".join(names)', False),
        ("deadline=None", False),
    ],
)
def test_what_the_walk_catches(line: str, caught: bool) -> None:
    assert bool(offences(line)) == caught
