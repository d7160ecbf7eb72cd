"""Hide and recover: does enrichment offer back a normal sentence that was taken out of an unseen report?

    python benchmarks/enrichment_recovery.py [any key of jobs/enrich.py]

The audit's part of the same name (raymedlt/enrichment/audit/recovery.py) on the packaged OpenI reports: learnt from 4/5
of the patients, scored on the rest, with and without the guard. Both shares of "recovered" are printed.
"""

from __future__ import annotations

import sys

from common import openi_reports, remembering, report

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.audit.recovery import hide_and_recover
from raymedlt.parsing import parse


def main() -> None:
    config = parse(EnrichConfig, sys.argv[1:], "python benchmarks/enrichment_recovery.py")
    found = hide_and_recover(openi_reports(), config, remembering(config))
    report(
        "enrichment_recovery",
        {
            "reports_fitted": found.fitted,
            "reports_scored": found.scored,
            "guarded": found.figures(guarded=True),
            "unguarded": found.figures(guarded=False),
        },
    )


if __name__ == "__main__":
    main()
