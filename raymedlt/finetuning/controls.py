"""What training reports teach instead of their own findings: enriched, a control's, the phantom's complete ones.

Only training reports are ever given to the enrichment here, and only their texts change.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.config import EnrichConfig
from raymedlt.enrichment import enrich
from raymedlt.errors import InputError
from raymedlt.finetuning.config import TextConfig, TextUse
from raymedlt.finetuning.studies import Variants
from raymedlt.schema import REPORTS, TRAIN

Control = Literal["semantic", "random", "paraphrase"]

CONTROLS: dict[TextUse, Control] = {"enriched": "semantic", "random": "random", "paraphrase": "paraphrase"}
"""text.use -> `control` of jobs/enrich.py."""


def phantom_variants(reports: pa.Table, text: TextConfig, *, seed: int, workers: int | None = None) -> Variants:
    """What the phantom's training reports teach.

    Args:
        reports: studies.IMAGE_REPORTS with the final splits.
        seed: of the enrichment's choices; a report's depend on it and its id.
        workers: threads that embed sentences; the result does not depend on them.

    Raises:
        InputError: no training report has findings.
    """
    train = reports.filter(pc.equal(reports["split"], TRAIN))
    if text.use == "original":
        return {}
    if text.use == "complete":
        ids, complete = train["report_id"].to_pylist(), train["complete_findings"].to_pylist()
        return {name: (findings,) for name, findings in zip(ids, complete, strict=True)}
    config = EnrichConfig(control=CONTROLS[text.use], variants=text.variants, seed=seed, workers=workers)
    return enriched_variants(enrich(train.select(REPORTS.names), config).enriched)


def enriched_variants(enriched: pa.Table) -> Variants:
    """Report id -> its texts, a draw each, in the order of the variants (one, if all are the same).

    Training reports only. Equal draws stay, so that an epoch draws a text as often as the enrichment did.

    Args:
        enriched: schema.ENRICHED.

    Raises:
        InputError: a report that was enriched is no training report, or a changed text belongs to no training report.
    """
    rows = enriched.sort_by([("report_id", "ascending"), ("variant", "ascending")])
    held_out = rows.filter(pc.not_equal(rows["split"], TRAIN))
    changed = int(pc.sum(pc.not_equal(held_out["findings"], held_out["enriched_findings"])).as_py() or 0)
    if changed:
        raise InputError(
            f"{changed} validation and test reports whose texts were changed",
            "changed training reports only",
            "run jobs/enrich.py with the splits of these images",
        )
    rows = rows.filter(pc.equal(rows["split"], TRAIN))
    found: dict[str, list[str]] = {}
    for report_id, findings in zip(rows["report_id"].to_pylist(), rows["enriched_findings"].to_pylist(), strict=True):
        found.setdefault(report_id, []).append(findings)
    return {report_id: tuple(texts if len(set(texts)) > 1 else texts[:1]) for report_id, texts in found.items()}
