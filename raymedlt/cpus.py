"""How many CPUs this process may use."""

from __future__ import annotations


def cpus() -> int:
    """CPUs that this process may use: what a batch system or `taskset` gave it, and a container's quota, count.

    `os.cpu_count` says what the machine has, so that a job with four of 64 CPUs would start 64 threads.
    """
    from joblib import cpu_count  # 0.2 s

    return int(cpu_count())
