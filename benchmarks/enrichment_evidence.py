"""How well does each measure of evidence order additions, and what coverage and contradiction has each policy?

    python benchmarks/enrichment_evidence.py

OpenI, judged by the human MeSH codes through reports/labels.py. For each policy, and for "safe" without its guard: the
share of reports with findings that get an addition, the share of checkable additions that contradict a code, and the
area under the ROC curve of each measure (1: every contradicting addition has weaker evidence than every other one).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from common import openi_reports, remembering, report
from scipy.stats import rankdata

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.evidence import MEASURES, against_labels, curve, evidence_of, human_floor
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.memory import fit
from raymedlt.enrichment.tables import edges_table
from raymedlt.enrichment.writing import write_reports

SCHEME = "openi_mesh"


def area(strength: np.ndarray, wrong: np.ndarray) -> float | None:
    """Area under the ROC curve of `strength` as a sign of not being wrong (Mann-Whitney); None of one kind alone."""
    bad, good = int(wrong.sum()), int((~wrong).sum())
    if not bad or not good:
        return None
    return round(float((rankdata(strength)[~wrong].sum() - good * (good + 1) / 2) / (bad * good)), 3)


def measure(table: pa.Table, knowledge: Knowledge, config: EnrichConfig) -> dict[str, Any]:
    """All figures of one policy."""
    written = write_reports(knowledge, table, config)
    ids = table["report_id"].to_pylist()
    labels, languages = (dict(zip(ids, table[name].to_pylist(), strict=True)) for name in ("labels", "language"))
    evidence = evidence_of(written.additions, edges_table(knowledge.arcs))
    verdicts = against_labels(written.additions, labels, SCHEME, languages)
    points = curve(evidence, written.summary["with_findings"], verdicts)
    run, can = points[-1], verdicts.checkable
    return {
        "coverage": round(run.coverage, 4),
        "additions": run.additions,
        "checkable": run.checked,
        "contradicting": int(verdicts.wrong.sum()),
        "share": [round(value, 5) for value in (run.rate, run.low, run.high)],
        "estimate_without_labels": round(float(evidence.opposite.mean()), 4),
        "ordering": {name: area(evidence.strength(name)[can], verdicts.wrong[can]) for name in MEASURES},
        "curve": [[round(p.coverage, 3), round(p.limit, 3), round(p.rate, 5)] for p in points[::5]],
    }


def main() -> None:
    table, figures = openi_reports(), dict[str, Any]()
    for name in ("paper", "safe", "strict"):
        config = EnrichConfig(policy=name)
        knowledge, _ = fit(table, config, remembering(config))
        figures[name] = measure(table, knowledge, config)
        if name == "safe":
            bare = dataclasses.replace(knowledge, policy=dataclasses.replace(knowledge.policy, guard=False))
            figures["safe without the guard"] = measure(table, bare, config)
    wrong, checked = human_floor(table, SCHEME)
    report("enrichment_evidence", {**figures, "human_floor": {"contradicting": wrong, "checkable": checked}})


if __name__ == "__main__":
    main()
