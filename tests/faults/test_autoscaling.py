"""Ray's autoscaler with machines that are raylets of this one: a run brings them, works on them, and lets them go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

import pytest
from growing_cluster import HEAD_TYPE, growing_cluster, watch
from runs import JOB, ROOT, SENTINEL, arguments_of, script, small_reports, tables_of


@pytest.mark.slow
def test_a_run_on_an_empty_cluster_brings_its_machines_and_leaves_it_empty(tmp_path: Path) -> None:
    source = small_reports(tmp_path / "small.csv", 120)
    small = ("--workers", "2", "--writing.shard_reports", "30")
    alone = script(*arguments_of(source, tmp_path / "alone", *small, shards=False))
    assert alone.returncode == 0, alone.stderr
    pools = {"cpu_spot": {"resources": {"CPU": 1, "object_store_memory": 100 * 1024**2}, "max_workers": 2}}
    with growing_cluster(pools, idle_seconds=6, most=2) as cluster, (tmp_path / "log").open("w") as log:
        assert cluster.look().machines == {}
        words = arguments_of(source, tmp_path / "run", *small, shards=False)
        job = subprocess.Popen(
            [sys.executable, JOB, *words], cwd=ROOT, env=cluster.environment, stdout=log, stderr=log, text=True
        )
        seen = [moment for _, moment in watch(cluster, job, 500)]

    told = (tmp_path / "log").read_text()
    assert job.returncode == 0, told[-3000:]
    assert 1 <= max(len(moment.machines) for moment in seen) <= 2  # as many as so little work asks for
    assert seen[-1].machines == {}
    worked = {moment.there[pid] for moment in seen for pid in moment.working}
    assert worked == {"cpu_spot"}, f"shards were done on {worked}; {HEAD_TYPE} must do none"
    assert tables_of(tmp_path / "run") == tables_of(tmp_path / "alone")
    assert SENTINEL not in told
