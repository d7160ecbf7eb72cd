"""The files of cluster.yaml and cluster/, and a way to spoil them: what the tests of both kinds share."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLOUDS = ("cluster.yaml", "cluster/gcp.yaml")
LAUNCHER = (*CLOUDS, "cluster/local.yaml")
KUBERAY = ("cluster/kuberay-cluster.yaml", "cluster/kuberay-job.yaml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RAY = "2.60.0"
BASES = {"cpu": f"rayproject/ray:{RAY}-py311", "gpu": f"rayproject/ray:{RAY}-py311-gpu"}
Config = dict[str, Any]
Rule = Callable[[Any], list[str]]
"""What is wrong with a file."""


def spoilt(config: Any, path: str, value: Any) -> Any:
    """A copy in which the value at a path such as "a/b/0" is another one, or gone (None)."""
    changed = copy.deepcopy(config)
    *way, last = [int(word) if word.isdigit() else word for word in path.split("/")]
    place = changed
    for word in way:
        place = place[word]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed
