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


def test_torch_keeps_the_threads_of_a_thread_that_has_not_computed_yet():
    """In a process of its own: a thread that computes for the first time takes what any thread set last."""
    program = (
        "import threading, torch\n"
        "from raymedlt.cpus import use_threads\n"
        "use_threads(3)\n"
        "other = threading.Thread(target=use_threads, args=(1,))\n"
        "other.start(); other.join()\n"
        "torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "print(torch.get_num_threads())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]
