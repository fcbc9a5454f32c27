"""Freed memory stays with the process that asked for it."""

import subprocess
import sys

import pytest

# 40 arrays of 80 MB, each freed before the next: pages that the system had to hand out for the last 30
PAGES = """
import resource
{first}
def pages(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        b"x" * 80_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages(10)
print(pages(30))
"""


def pages(first: str) -> int:
    done = subprocess.run([sys.executable, "-c", PAGES.format(first=first)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_freed_is_used_again() -> None:
    assert pages("") > 10_000
    assert pages("from serein.allocator import keep_freed_memory; keep_freed_memory()") < 100
    command = "import sys; sys.argv = ['serein']\nfrom serein.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert pages(command) < 100
