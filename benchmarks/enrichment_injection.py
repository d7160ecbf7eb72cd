"""Error injection: what share of known errors does the guard refuse, and what share of true sentences?

    python benchmarks/enrichment_injection.py [any key of jobs/enrich.py]

The audit's part of the same name (raymedlt/enrichment/audit/injection.py) on all packaged OpenI reports. Fails when a
bar is missed: at least 95 % of the errors refused, at most 10 % of the good sentences that don't merely restate.
"""

from __future__ import annotations

import sys
from collections import Counter

from common import openi_reports, remembering, report

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.audit.contradiction import labelled, labels_of
from raymedlt.enrichment.audit.injection import ERRORS_REFUSED_BAR, GOOD_REFUSED_BAR, Injection, inject
from raymedlt.enrichment.memory import fit
from raymedlt.parsing import parse


def good_refused_because(found: Injection) -> list[str]:
    """The commonest reasons, with their counts; no report text."""
    rows = found.table.filter(found.table["good"]).select(["kind", "reason"]).to_pylist()
    counts = Counter(
        (row["kind"], row["reason"]) for row in rows if row["reason"].split(":")[0] not in ("", "restates")
    )
    return [f"{count} x {kind}: {reason}" for (kind, reason), count in counts.most_common(20)]


def errors_passed(found: Injection) -> list[str]:
    """Kind and finding of the errors that passed, with their counts; no report text."""
    rows = found.table.select(["kind", "good", "finding", "reason"]).to_pylist()
    counts = Counter((row["kind"], row["finding"]) for row in rows if not row["good"] and not row["reason"])
    return [f"{count} x {kind}: {finding}" for (kind, finding), count in counts.most_common(20)]


def main() -> int:
    config = parse(EnrichConfig, sys.argv[1:], "python benchmarks/enrichment_injection.py")
    reports = openi_reports()
    knowledge, _ = fit(reports, config, remembering(config))
    labels = labelled(labels_of(reports, None), "openi_mesh")
    found = inject(knowledge, reports, reports.num_rows, config.seed, labels)
    figures = found.figures()
    met = {
        "errors_refused": figures["errors_refused"]["value"] >= ERRORS_REFUSED_BAR,
        "good_refused": figures["good_refused"]["value"] <= GOOD_REFUSED_BAR,
    }
    more = {"good_refused_because": good_refused_because(found), "errors_passed": errors_passed(found), "met": met}
    report("enrichment_injection", {**figures, **more})
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
