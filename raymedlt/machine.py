"""Device, precision and threads of a run: settled once and kept in its ledger, since they decide the last digits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from raymedlt.cpus import cpus
from raymedlt.errors import ConfigError
from raymedlt.ledger import Ledger
from raymedlt.runtime import Cluster

SETTLE = "settle"

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """What was settled about the machine when the run began; a run that goes on elsewhere keeps it."""

    device: Device
    precision: Precision
    threads: int
    """Threads of one replica's numerical libraries: sums of floats depend on it in their last digits."""


def settle(
    ledger: Ledger,
    *,
    device: Literal["auto"] | Device,
    precision: Literal["auto"] | Precision,
    replicas: int,
    key: str,
    connect: Callable[[], Cluster] | None,
) -> Settings:
    """What the run uses: as it was settled when it began, else as the machine or the cluster allows now.

    Args:
        key: section of the configuration that holds device and replicas, for messages.
        connect: joins the cluster that will do the work; None: this process does it.

    Raises:
        ConfigError: GPUs are asked for that aren't there.
    """
    known = ledger.done(SETTLE, "machine")
    if known is None:
        chosen = choose_device(device, key, connect, replicas)
        cluster = connect() if connect is not None else None
        # On a cluster of several nodes the CPUs of this one say nothing about a replica's.
        several = cluster is not None and (cluster.nodes > 1 or cluster.grows)
        threads = 1 if several else max(1, cpus() // replicas)
        known = dataclasses.asdict(Settings(chosen, _precision(precision, chosen), threads))
        ledger.commit(SETTLE, "machine", [], known)
    settings = Settings(**known)
    # Whatever imports accelerate imports DeepSpeed, which would print on standard output what it works on.
    os.environ.setdefault("DS_ACCELERATOR", driver_device(settings))
    return settings


def driver_device(settings: Settings) -> Device:
    """Where the driver computes: on its own GPU, which the head of a cluster may lack."""
    import torch

    return settings.device if settings.device == "cpu" or torch.cuda.is_available() else "cpu"


def refuse_missing_gpu(device: str, key: str) -> None:
    """Raise ConfigError where this process is to work on a GPU that isn't there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{key}.device is 'cuda', and this machine has no GPU", "cpu or auto", f"give --{key}.device auto"
        )


def choose_device(
    wanted: Literal["auto"] | Device, key: str, connect: Callable[[], Cluster] | None = None, replicas: int = 1
) -> Device:
    """What was asked for; "auto" is a GPU where there is one for each replica.

    Args:
        key: section of the configuration that holds device (and replicas), for messages.
        connect: joins the cluster that will do the work; None: this process does it.

    Raises:
        ConfigError: GPUs are asked for that aren't there.
    """
    if connect is None:
        import torch

        refuse_missing_gpu(wanted, key)
        if wanted == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return wanted
    gpus = connect().gpus
    if wanted == "auto":
        return "cuda" if gpus >= replicas else "cpu"
    if wanted == "cuda" and gpus < replicas:
        raise ConfigError(
            f"{key}.device is 'cuda', and the cluster has {gpus:g} GPUs",
            f"one for each of {replicas} replicas" if replicas > 1 else "at least one",
            f"give fewer --{key}.replicas, or --{key}.device cpu" if replicas > 1 else f"give --{key}.device cpu",
        )
    return wanted


def _precision(wanted: Literal["auto"] | Precision, device: Device) -> Precision:
    if wanted != "auto":
        return wanted
    from raymedlt.embedding.encoder import processor_has_bfloat16

    return "bfloat16" if device == "cuda" or processor_has_bfloat16() else "float32"
