"""The enrich job's page: what came in, what came out, and how far to trust it, for a radiology researcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.clustering.certificate import Certificate
from raymedlt.clustering.fit import Clustering
from raymedlt.config import EnrichConfig, config_hash, flatten
from raymedlt.enrichment.condition import condition_blocks
from raymedlt.enrichment.sections import (
    Vectors,
    added_blocks,
    clusters_blocks,
    examples_blocks,
    flow_blocks,
    graph_blocks,
    maps_blocks,
    of_section,
    percent,
    refused_blocks,
)
from raymedlt.enrichment.trust import evidence_blocks
from raymedlt.runreport.about import configuration_blocks, rejected_blocks, time_bars
from raymedlt.runreport.page import ROWS_SHOWN, KeyFigure, KeyValues, Page, Section

GUARD_WORDS = {"contradicts": "would contradict", "restates": "already said"}


def enrichment_page(
    *,
    config: EnrichConfig,
    counts: Mapping[str, Any],
    summary: Mapping[str, Any],
    enriched: pa.Table,
    additions: pa.Table,
    refusals: pa.Table,
    sentences: pa.Table,
    clusters: pa.Table,
    edges: pa.Table,
    rejected: pa.Table,
    vectors: Mapping[str, Vectors],
    certificates: Mapping[str, Certificate],
    clusterings: Mapping[str, Clustering] | None = None,
    timings: Mapping[str, float],
    startup_seconds: float = 0.0,
    precision: str = "",
    warnings: Sequence[str] = (),
    paths: Mapping[str, str] | None = None,
    command: str = "",
    about: str = "",
) -> Page:
    """The page of one run.

    Args:
        counts: of the whole run: rows_read, rejected {reason: rows}, with_findings and with_impression (valid reports
            of any split).
        summary: `Written.summary`, added up over all shards (first variant).
        enriched, additions, refusals, rejected: all rows, or the first ones of a large run: examples, coverage by
            length and the commonest additions are then of these; every other figure is of the whole run.
        sentences, clusters, edges: all rows (schema.SENTENCES, CLUSTERS, EDGES).
        vectors: section -> float32 [K, D], in the order of that section's rows in `sentences`; may be a memory map
            (at most 4,000 rows and the medoids are read). A section without an entry gets no map.
        certificates: section -> how its clustering came about.
        clusterings: section -> its clustering, for the picture of its tree; a section without an entry gets none.
        timings: stage -> seconds of work, in the order of the stages. startup_seconds: what does not grow with data.
        precision: what the embedding was computed in, in words.
        paths: table -> where it lies, as it shall be shown.
        command: what to type to resume or repeat the run. about: a line under the title (source, date, machine).

    O(sentences + rows given); under 3 s for OpenI's 3,955 reports.
    """
    paths = dict(paths or {})
    first = enriched.filter(pc.equal(enriched["variant"], 0))
    first_added = additions.filter(pc.equal(additions["variant"], 0))
    findings = of_section(clusters, "findings")
    rejected_rows = [(row["row_id"], row["source"], row["reason"]) for row in rejected.slice(0, ROWS_SHOWN).to_pylist()]
    sections = [
        Section(title="From input to output", blocks=flow_blocks(counts, summary)),
        Section(title="Before and after", blocks=examples_blocks(first, first_added, findings, paths)),
        Section(title="What was added", blocks=added_blocks(first, first_added, summary)),
        Section(title="What the guard refused", blocks=refused_blocks(first, refusals, findings, summary, paths)),
        Section(
            title="Coverage against contradiction",
            blocks=evidence_blocks(first, first_added, edges, config, summary),
        ),
        Section(title="Map of the clusters", blocks=maps_blocks(sentences, clusters, vectors)),
        Section(title="Clusters", blocks=clusters_blocks(clusters, paths)),
        Section(title="What goes together", blocks=graph_blocks(findings, edges, config, paths)),
        Section(
            title="Condition of the clustering",
            blocks=condition_blocks(sentences, clusters, certificates, clusterings or {}),
        ),
        Section(title="Rejected rows", blocks=rejected_blocks(counts["rejected"], rejected_rows, paths)),
        Section(title="Time", blocks=[time_bars(timings, startup_seconds), KeyValues([("Embedding", precision)])]),
        Section(title="Configuration", blocks=configuration_blocks(flatten(config), flatten(EnrichConfig()))),
    ]
    with_findings, got = int(summary["with_findings"]), int(summary["enriched"])
    return Page(
        title="Enriched reports",
        verdict=f"{got:,} of {with_findings:,} training reports with findings got an addition"
        f" ({percent(got, with_findings)}).",
        about=about,
        key_figures=_key_figures(counts, summary, clusters),
        warnings=warnings,
        sections=sections,
        config_hash=config_hash(config),
        resume=command,
    )


def _key_figures(counts: Mapping[str, Any], summary: Mapping[str, Any], clusters: pa.Table) -> list[KeyFigure]:
    added = sum(int(number) * reports for number, reports in summary["added"].items())
    refused = dict(summary["refused"])
    rejected = sum(counts["rejected"].values())
    found = of_section(clusters, "findings").num_rows
    got, with_findings = int(summary["enriched"]), int(summary["with_findings"])
    return [
        KeyFigure(
            label="Reports enriched",
            value=percent(got, with_findings),
            hint=f"{got:,} of {with_findings:,} with findings",
        ),
        KeyFigure(
            label="Sentences added", value=f"{added:,}", hint=f"{added / got:.2f} per enriched report" if got else ""
        ),
        KeyFigure(
            label="Guard refusals",
            value=f"{sum(refused.values()):,}",
            hint=" · ".join(f"{number:,} {GUARD_WORDS.get(kind, kind)}" for kind, number in sorted(refused.items())),
        ),
        KeyFigure(
            label="Clusters of findings", value=f"{found:,}", hint=f"{clusters.num_rows - found:,} more of impressions"
        ),
        KeyFigure(
            label="Rows rejected",
            value=f"{rejected:,}",
            hint=f"of {counts['rows_read']:,} rows read, each with a reason",
        ),
    ]
