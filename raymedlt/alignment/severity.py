"""How much a cluster weighs: an overlooked pneumothorax is worse than an overlooked scoliosis.

severity.csv, beside this file, gives findings (ids of reports/rules/findings.csv) one of four severities; a radiologist
who doesn't know Python can correct it. A finding without a row has the highest severity of its nearest ancestors that
have one. A cluster's severity is the highest of the findings that its medoid sentence claims; a medoid that claims none
("no pleural effusion") is benign.

Weights: urgent 1, actionable 0.5, non-actionable 0.25, benign 0.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError
from raymedlt.evaluation.findings import claims_of
from raymedlt.reports.vocabulary import is_a, ontology

WEIGHTS = {"urgent": 1.0, "actionable": 0.5, "non_actionable": 0.25, "benign": 0.0}


class Medoids(Protocol):
    """What is needed of a `clustering.model.ClusterModel`."""

    keys: list[str]

    @property
    def medoids(self) -> npt.NDArray[np.int64]:
        """int64 [C], per cluster the number of its medoid sentence."""
        ...


def cluster_weights(model: Medoids, table: str | Path | None = None, language: str = "en") -> dict[int, float]:
    """The weight of each cluster.

    Args:
        table: a CSV file with the columns finding and severity; None: the one beside this file.

    Raises:
        InputError: no such file, a finding or severity that isn't known, no assertion rules for the language.
    """
    severities = _severities(None if table is None else str(table))
    weights = {}
    for cluster, number in enumerate(model.medoids.tolist()):
        claimed = {label.finding for label in claims_of(model.keys[number], language).asserted}
        weights[cluster] = max((_weight(finding, severities) for finding in claimed), default=0.0)
    return weights


def _weight(finding: str, severities: dict[str, float]) -> float:
    rows = [each for each in severities if is_a(finding, each)]
    nearest = [each for each in rows if not any(other != each and is_a(other, each) for other in rows)]
    return max(severities[each] for each in nearest)


@lru_cache(maxsize=8)
def _severities(table: str | None) -> dict[str, float]:
    source = files("raymedlt.alignment").joinpath("severity.csv") if table is None else Path(table)
    name = "alignment/severity.csv" if table is None else table
    if not source.is_file():
        raise InputError(f"no file '{name}'", "a CSV file with the columns finding and severity")
    rows = list(csv.DictReader(source.read_text(encoding="utf-8").splitlines()))
    found: dict[str, float] = {}
    for row in rows:
        finding, severity = row.get("finding"), row.get("severity")
        if finding not in ontology().ancestors:
            raise InputError(f"{name} names the finding '{finding}'", "an id of reports/rules/findings.csv")
        if severity not in WEIGHTS:
            raise InputError(f"{name} gives '{finding}' the severity '{severity}'", f"one of {', '.join(WEIGHTS)}")
        found[finding] = WEIGHTS[severity]
    missing = [root for root, above in ontology().ancestors.items() if not above & found.keys()]
    if missing:
        raise InputError(
            f"{name} says nothing of {', '.join(missing[:5])}",
            "a row for every finding or one of its ancestors",
            "add rows for chest_abnormality and other_body_part_abnormality",
        )
    return found
