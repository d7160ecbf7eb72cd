"""The parts of the enrich job's page, each with a few words for a radiology researcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.config import EnrichConfig
from raymedlt.enrichment.clustermap import cluster_map
from raymedlt.enrichment.corpus import SECTIONS
from raymedlt.enrichment.figures import (
    addition_examples,
    additions_histogram,
    cooccurrence,
    coverage_by_length,
    in_words,
    refusal_examples,
    row_flow,
    top_additions,
)
from raymedlt.runreport.page import Block, Column, Examples, KeyValues, Paragraph, Switch, Table

Vectors = npt.NDArray[np.float32]
CLUSTER_COLUMNS = ("section", "cluster_id", "medoid", "sign", "purity", "size", "occurrences", "persistence")


def percent(part: int, whole: int) -> str:
    """A share to one decimal place; "-" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def of_section(table: pa.Table, name: str) -> pa.Table:
    """The rows of one section."""
    return table.filter(pc.equal(table["section"], name))


def flow_blocks(counts: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Block]:
    return [
        Paragraph(
            "Nothing disappears: every row that was read is enriched, left as it was for a named reason, or rejected"
            " with a reason. Only training reports are enriched; the original text is never changed, additions stand"
            " behind it."
        ),
        row_flow(counts, summary),
        KeyValues(
            [
                ("Rows read", f"{counts['rows_read']:,}"),
                ("Valid reports", f"{summary['reports']:,}"),
                ("Valid reports with findings", f"{counts['with_findings']:,}"),
                ("Valid reports with an impression", f"{counts['with_impression']:,}"),
                *[(f"Unchanged: {reason}", f"{number:,}") for reason, number in summary["unchanged"].items()],
                ("Cut off", f"{summary['cut_off']:,}", "reports with more possible sets of additions than were listed"),
            ]
        ),
    ]


def examples_blocks(
    enriched: pa.Table, additions: pa.Table, clusters: pa.Table, paths: Mapping[str, str]
) -> list[Block]:
    examples = addition_examples(enriched, additions, clusters)
    if not examples:
        return [Paragraph("No report got an addition.")]
    where = f" Every addition is in {paths['additions']}." if "additions" in paths else ""
    return [
        Paragraph(
            "Green sentences were added; point at one, or open the evidence. Support is the number of training studies"
            " in which the added statement stands together with a finding of this report; confidence is the share of"
            " studies with that finding that also make the statement; lift compares this share with how common the"
            f" statement is anyway (1 is chance). The weakest link is shown.{where}"
        ),
        Examples(examples),
    ]


def added_blocks(enriched: pa.Table, additions: pa.Table, summary: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [additions_histogram(summary), coverage_by_length(enriched)]
    if additions.num_rows:
        blocks.append(top_additions(additions))
        donors = additions.group_by(["sentence", "cluster_id"]).aggregate([([], "count_all")])
        ranked = donors.sort_by([("count_all", "descending"), ("sentence", "ascending")])
        whole = sum(int(number) * reports for number, reports in summary["added"].items())
        sample = f" (of the first {additions.num_rows:,} of {whole:,} additions)" if whole > additions.num_rows else ""
        blocks.append(
            Table(
                caption=f"Sentences by how often they were added{sample}.",
                columns=[
                    Column(name="Sentence", wide=True),
                    Column(name="Cluster", numeric=True),
                    Column(name="Added", numeric=True),
                ],
                rows=[
                    (row["sentence"], row["cluster_id"], row["count_all"]) for row in ranked.slice(0, 100).to_pylist()
                ],
                total=ranked.num_rows,
            )
        )
    return blocks


def refused_blocks(
    enriched: pa.Table, refusals: pa.Table, clusters: pa.Table, summary: Mapping[str, Any], paths: Mapping[str, str]
) -> list[Block]:
    total = sum(summary["refused"].values())
    if not total:
        return [Paragraph("The guard refused nothing, or was switched off by the policy or control of this run.")]
    counted = refusals.group_by(["reason"]).aggregate([([], "count_all")])
    ranked = counted.sort_by([("count_all", "descending"), ("reason", "ascending")])
    sample = f" (of the first {refusals.num_rows:,} of {total:,})" if total > refusals.num_rows else ""
    return [
        Paragraph(
            "The graph offered these statements, but the report's findings, impression or indication say otherwise"
            " (contradicts) or say the same already (restates). A refused cluster may still be added to other reports."
        ),
        Table(
            caption=f"Refusals by reason{sample}.",
            columns=[
                Column(name="Reason", wide=True),
                Column(name="Code"),
                Column(name="Refusals", numeric=True),
            ],
            rows=[(in_words(row["reason"]), row["reason"], row["count_all"]) for row in ranked.to_pylist()],
            where=paths.get("refusals", ""),
        ),
        Paragraph("Six examples: the report's findings, and the sentence that was kept out."),
        Examples(refusal_examples(enriched, refusals, clusters)),
    ]


def maps_blocks(sentences: pa.Table, clusters: pa.Table, vectors: Mapping[str, Vectors]) -> list[Block]:
    panels: list[tuple[str, list[Block]]] = []
    for name in SECTIONS:
        if name not in vectors:
            continue
        figure = cluster_map(name, of_section(sentences, name), of_section(clusters, name), vectors[name])
        if figure is not None:
            panels.append((name.capitalize(), [figure]))
    if not panels:
        return [Paragraph("There is no cluster to draw.")]
    intro = Paragraph(
        "Sentences that mean the same form a cluster. Its sign is the vote of its sentences: normal (a healthy"
        " statement), abnormal, neutral (technique, comparison), or mixed where they disagree. Only normal clusters are"
        " added, unless the policy says otherwise. Drag to move, scroll to zoom, double-click to reset."
    )
    return [intro, Switch(panels) if len(panels) > 1 else panels[0][1][0]]


def clusters_blocks(clusters: pa.Table, paths: Mapping[str, str]) -> list[Block]:
    ranked = clusters.sort_by([("occurrences", "descending"), ("section", "ascending"), ("cluster_id", "ascending")])
    return [
        Table(
            caption="Medoid: the most central sentence. Purity: the share of occurrences that agree on the sign."
            " Persistence: how long the cluster holds together as the density threshold rises (higher is firmer).",
            columns=[
                Column(name="Section"),
                Column(name="Id", numeric=True),
                Column(name="Medoid", wide=True),
                Column(name="Sign", tag=True),
                Column(name="Purity", numeric=True, digits=3),
                Column(name="Size", numeric=True, hint="Distinct sentences"),
                Column(name="Occurrences", numeric=True, hint="Sentences with repeats"),
                Column(name="Persistence", numeric=True, digits=3),
            ],
            rows=[tuple(row[name] for name in CLUSTER_COLUMNS) for row in ranked.to_pylist()],
            where=paths.get("clusters", ""),
        )
    ]


def graph_blocks(clusters: pa.Table, edges: pa.Table, config: EnrichConfig, paths: Mapping[str, str]) -> list[Block]:
    figure = cooccurrence(clusters, edges)
    where = f" All of them are in {paths['edges']}." if "edges" in paths else ""
    intro = Paragraph(
        f"{edges.num_rows:,} links vouch for additions: pairs of clusters that stand together in more than"
        f" {config.graph.min_support} training studies.{where}"
    )
    return [intro, figure] if figure else [intro]
