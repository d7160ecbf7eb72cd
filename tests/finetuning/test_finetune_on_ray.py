"""Under Ray Train: a replica is killed, and what goes on from the last checkpoint has the same result."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial

import language_world
import pytest
import torch
from language_world import SETTINGS, Batches, quick, tiny
from ray import cloudpickle

from raymedlt.finetuning.distributed import train_on_ray
from raymedlt.finetuning.state import LATEST
from raymedlt.finetuning.task import TRAINED, Task, do, folder_of, trained_model
from raymedlt.ledger import LedgerHandle
from raymedlt.storage import Storage

# Ray's workers can't import what only the tests have.
cloudpickle.register_pickle_by_value(language_world)
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def batches_of(storage: Storage, *, slow: float, pids: str = "") -> Batches:
    """Also leaves the replica's process id."""
    if pids:
        os.makedirs(pids, exist_ok=True)
        with open(f"{pids}/{os.getpid()}", "w", encoding="utf-8"):
            pass
    return Batches(slow=slow, steps=2)


@pytest.mark.slow
def test_a_killed_replica_is_survived(tmp_path, local_ray):
    storage = Storage.of(str(tmp_path))
    pids = str(tmp_path / "pids")
    changes = {"replicas": 2, "least_replicas": 1, "zero": 2, "epochs": 6, "checkpoint_seconds": 1e6}
    alone = Task("alone", quick(epochs=6), 1, tiny, partial(batches_of, slow=0.0))
    do(alone, SETTINGS, LedgerHandle(storage))
    task = Task("killed", quick(**changes), 1, tiny, partial(batches_of, slow=0.5, pids=pids))
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline and not killed:
            try:
                steps = json.loads((tmp_path / folder_of("killed") / LATEST).read_bytes())["position"]["steps"]
            except (FileNotFoundError, ValueError):
                steps = 0
            if steps >= 4:
                killed.append(max(map(int, os.listdir(pids))))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    train_on_ray(task, SETTINGS, LedgerHandle(storage), storage=storage)
    thread.join()
    assert killed, "the training ended before a replica could be killed"
    found, expected = (LedgerHandle(storage).done(TRAINED, name) for name in ("killed", "alone"))
    assert len(found["history"]) == 6
    for line, other in zip(found["history"], expected["history"], strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert line["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-3)
    weights = trained_model(task, storage).state_dict()
    for name, tensor in trained_model(alone, storage).state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3)
