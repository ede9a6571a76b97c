"""Memory stays bounded on long videos and flat over many."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark" / "memory.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)


def test_memory_is_measured_over_a_few_videos():
    ran = run("many", "--videos", "5")
    assert ran.returncode == 0 and "MiB after 5 videos" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_stays_below_a_gibibyte_on_two_hours_of_1080p():
    ran = run("long")
    assert ran.returncode == 0 and "172800" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_does_not_grow_over_a_thousand_videos():
    ran = run("many")
    assert ran.returncode == 0 and "| 1000 |" in ran.stdout, ran.stdout + ran.stderr
