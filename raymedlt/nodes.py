"""What a cluster's nodes have: resources, those too that an autoscaler may bring, and the driver's versions."""

from __future__ import annotations

import os
import re
from typing import Any

from raymedlt.errors import ConfigError, VersionError
from raymedlt.versions import DRIVER, refuse_differences, versions_here

POOLS = "RAYMEDLT_POOLS"
"""Environment variable of a cluster's head: what its pools hold at most, such as "CPU=64,GPU=6,training=2". Ray tells
nobody what its autoscaler may bring, so that pools which begin empty would look like a cluster without GPUs."""

TRAINING = "training"
"""Resource of the nodes that trainings run on, where a cluster has such nodes: those that nobody takes away."""

_SECONDS = 60.0


def pools() -> dict[str, float]:
    """What POOLS says; {} without it, and on a Ray that the run started itself: that one stays as it is.

    Raises:
        ConfigError: it isn't of the form above.
    """
    told = os.environ.get(POOLS, "") if DRIVER in os.environ else ""
    if not re.fullmatch(r"(\w+=\d+(,\w+=\d+)*)?", told):
        raise ConfigError(f"the environment variable {POOLS} is {told!r}", "such as CPU=64,GPU=6,training=2")
    return {name: float(count) for name, _, count in (part.partition("=") for part in told.split(",") if part)}


def capacity() -> dict[str, float]:
    """Resources that the cluster has now, or may come to have. Needs a connection."""
    import ray

    now, later = ray.cluster_resources(), pools()
    return {name: max(float(now.get(name, 0)), later.get(name, 0.0)) for name in {*now, *later}}


def refuse_other_versions() -> None:
    """Ask every node that is alive for its versions: one process on each, a few seconds. Needs a connection.

    A node that doesn't answer in time is left to its worker processes, which look again (`versions.check_worker`).

    Raises:
        VersionError: a node has other versions than this process, or can't import raymedlt.
    """
    import ray
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[probe.options(scheduling_strategy=here).remote()] = (
                f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            )
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
    for each in late:
        ray.cancel(each, force=True)
    found = {}
    for each in ready:
        try:
            found[asked[each]] = ray.get(each)
        except ray.exceptions.RayTaskError as error:
            raise VersionError(
                f"node {asked[each]} can't run raymedlt ({type(error.cause).__name__})",
                "raymedlt and what it imports on every node",
                "make all nodes from one image (cluster/Dockerfile), or submit with --working-dir . from the checkout",
            ) from error
        except ray.exceptions.RayError:
            continue  # the node went meanwhile
    refuse_differences(versions_here(), found)


def _probe() -> dict[str, str]:
    return versions_here()  # Ray takes plain functions only


def refused_by_ray(error: RuntimeError) -> VersionError | None:
    """Ray's own refusal of another Ray or Python, in our words; None for any other error."""
    found = re.findall(r"(Ray|Python): (\S+)", str(error))
    if "Version mismatch" not in str(error) or len(found) != 4:
        return None
    cluster, driver = (" with ".join(f"{name} {version}" for name, version in each) for each in (found[:2], found[2:]))
    return VersionError(
        f"the cluster was started by {cluster}, and this driver has {driver}",
        "the same Ray and the same Python, to the last digit",
        "use `ray job submit`, which runs the driver on the cluster, or a Python environment like the cluster's",
    )
