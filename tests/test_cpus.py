"""The number of CPUs that a process may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't bind a process to CPUs")
def test_a_process_that_is_bound_to_one_cpu_has_one():
    code = "import os, raymedlt.cpus as c; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(c.cpus())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "1"
