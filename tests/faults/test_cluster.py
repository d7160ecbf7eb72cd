"""A cluster of three nodes that loses a worker and a whole node while a job runs: the job goes on, nothing shows.

Many more kills, of all jobs, with drivers and actors among them: benchmarks/cluster_faults.py.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

import pytest
from nodes import Nodes
from runs import SENTINEL, arguments_of, descendants, marked, start, tables_of, undisturbed, wait_for


@pytest.mark.slow
def test_a_killed_worker_and_a_vanished_node_are_replaced(tmp_path: Path) -> None:
    standard, output = undisturbed(), tmp_path / "run"
    with Nodes((2, 2)) as nodes:
        words = arguments_of(standard.source, output, "--workers", "2")
        driver = start(*words, log=tmp_path / "log", env=nodes.environment())
        killed: dict[str, int] = {}

        def busy() -> list[int]:
            """Workers with a shard in their hands."""
            return [pid for pid, name in nodes.workers().items() if name.startswith("ray::Map(do_shard)")]

        def kill_worker() -> bool:
            for pid in busy()[:1]:
                killed["worker"] = pid
                os.kill(pid, signal.SIGKILL)
            return bool(killed)

        def kill_node() -> bool:
            for raylet in nodes.raylets():
                if set(busy()) & set(descendants(raylet)):
                    killed["node"] = raylet
                    nodes.kill(raylet)
                    return True
            return False

        try:
            wait_for(lambda: marked(output, "read") and kill_worker(), driver)  # while reports are arranged
            wait_for(lambda: marked(output, "precision") and kill_node(), driver)  # while sentences are embedded
            nodes.add(2)
            assert driver.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait()
    assert set(killed) == {"worker", "node"}
    assert tables_of(output) == tables_of(standard.output)
    assert SENTINEL not in (tmp_path / "log").read_text()
