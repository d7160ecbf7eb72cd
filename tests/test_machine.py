"""What a run settles about the machine: GPUs that an autoscaler may bring count, and the head may lack one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raymedlt.cpus import cpus
from raymedlt.errors import ConfigError
from raymedlt.ledger import Ledger
from raymedlt.machine import Settings, driver_device, settle
from raymedlt.runtime import Cluster
from raymedlt.storage import Storage


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(Storage.of(str(tmp_path / "out")), config_hash="c", config={}, data_hash="d") as opened:
        yield opened


def cluster(gpus: float, grows: bool, nodes: int = 1) -> Cluster:
    """A cluster as `connect` describes it."""
    return Cluster(cpus=8, gpus=gpus, nodes=nodes, grows=grows, started=False, seconds=0.0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (cluster(2, grows=True), Settings("cuda", "float32", 1)),
        (cluster(1, grows=True), Settings("cpu", "float32", 1)),
        (cluster(0, grows=False, nodes=2), Settings("cpu", "float32", 1)),
        (cluster(0, grows=False), Settings("cpu", "float32", max(1, cpus() // 2))),
    ],
)
def test_two_replicas(found: Cluster, expected: Settings, ledger: Ledger) -> None:
    given = {"device": "auto", "precision": "float32", "replicas": 2, "key": "machine"}
    assert settle(ledger, **given, connect=lambda: found) == expected
    assert settle(ledger, **given, connect=lambda: cluster(8, grows=True)) == expected, "settled once"


def test_gpus_that_can_not_come_are_refused(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="the cluster has 2 GPUs"):
        settle(
            ledger, device="cuda", precision="float32", replicas=3, key="machine",
            connect=lambda: cluster(2, grows=True),
        )  # fmt: skip


def test_the_driver_computes_where_it_can() -> None:
    assert driver_device(Settings("cpu", "float32", 1)) == "cpu"
    assert driver_device(Settings("cuda", "float32", 1)) == ("cuda" if torch.cuda.is_available() else "cpu")
