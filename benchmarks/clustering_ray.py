"""What sharing the work costs: two Ray workers of one thread each against one process of two threads.

Part `distributed` of clustering.py.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from clustering_sets import padchest

from raymedlt.clustering import hdbscan_fit
from raymedlt.clustering.distributed import RayFleet
from raymedlt.clustering.fit import Settings, build_index, grow
from raymedlt.ledger import Ledger
from raymedlt.progress import Progress
from raymedlt.runtime import connect
from raymedlt.storage import Storage

_WORKERS = 2
_SHARD_POINTS = 8192  # the default of clustering.shard_points
_MOST = 1.25


def distributed(sentences: int | None, repeats: int = 3) -> dict[str, Any]:
    """PadChest's distinct sentences in exact mode, both ways in turn; start-up of the workers apart."""
    vectors, settings = padchest(sentences), Settings()
    alone, shared, starting = [], [], []
    failed = []
    hdbscan_fit(vectors[:2000])
    with connect(_WORKERS):
        for _ in range(repeats):
            began = time.perf_counter()
            one = hdbscan_fit(vectors, threads=_WORKERS)
            alone.append(time.perf_counter() - began)
            with (
                tempfile.TemporaryDirectory() as folder,
                Ledger.open(Storage.of(folder), config_hash="c", config={}, data_hash="d") as ledger,
            ):
                began = time.perf_counter()
                index = build_index(vectors, settings)
                options = (index, settings, "findings", ledger, Progress(io.StringIO()), _WORKERS, _SHARD_POINTS)
                with RayFleet(*options) as fleet:
                    fleet.search()
                    other = grow(index, fleet, settings)
                shared.append(time.perf_counter() - began - fleet.seconds_starting)
                starting.append(fleet.seconds_starting)
            if not np.array_equal(one.labels, other.labels):
                failed.append("the labels differ")
    ratio = statistics.median(two / single for two, single in zip(shared, alone, strict=True))
    if ratio > _MOST:
        failed.append(f"sharing costs {ratio:.2f} times one process")
    return {
        "points": len(vectors),
        "one_process_seconds": [round(each, 2) for each in alone],
        "two_workers_seconds": [round(each, 2) for each in shared],
        "start_up_seconds": [round(each, 2) for each in starting],
        "ratio": round(ratio, 3),
        "ratio_with_start_up": round(
            statistics.median(
                (two + start) / single for two, start, single in zip(shared, starting, alone, strict=True)
            ),
            3,
        ),
        "equal_labels": not any("labels" in each for each in failed),
        "failed": failed,
    }
