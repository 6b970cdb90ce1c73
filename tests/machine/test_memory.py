"""Test that freed heap memory is reused."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from decision_seq.machine.memory import keep_freed

if sys.argv[1] == "kept":
    keep_freed()
for number in range(20):
    if number == 10:  # until a heap has settled, a block may be too small by what aligns it
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB: 16,384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_not_cleared_again() -> None:
    def faults(way: str) -> int:
        command = [sys.executable, "-c", FAULTS, way]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert faults("kept") < 100
    assert faults("plain") > 100_000
