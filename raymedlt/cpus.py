"""How many CPUs this process may use, and how many threads torch."""

from __future__ import annotations


def cpus() -> int:
    """CPUs that this process may use: what a batch system or `taskset` gave it, and a container's quota, count.

    `os.cpu_count` says what the machine has, so that a job with four of 64 CPUs would start 64 threads.
    """
    from joblib import cpu_count  # 0.2 s

    return int(cpu_count())


def use_threads(count: int) -> None:
    """Have torch compute with `count` threads in this thread of the process.

    `torch.set_num_threads` alone doesn't hold: a thread that computes for the first time takes the number that any
    thread of the process set last. So this thread is made to take its own at once.
    """
    import torch

    torch.set_num_threads(count)
    torch.get_num_threads()
