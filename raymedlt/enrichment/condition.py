"""The page's section on how sure the clustering is of itself."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from raymedlt.clustering.certificate import Certificate
from raymedlt.clustering.fit import Clustering
from raymedlt.enrichment.sections import of_section, percent
from raymedlt.enrichment.treefigure import condensed_tree_figure
from raymedlt.runreport.page import Block, KeyValues, Paragraph

_Item = tuple[str, str] | tuple[str, str, str]


def condition_blocks(
    sentences: pa.Table,
    clusters: pa.Table,
    certificates: Mapping[str, Certificate],
    clusterings: Mapping[str, Clustering],
) -> list[Block]:
    """Per section: how many sentences are clustered, what the certificate says, the condensed tree."""
    blocks: list[Block] = [
        Paragraph(
            "HDBSCAN finds clusters as dense regions that stay together over many density thresholds, along a minimum"
            " spanning tree of all sentences. A certified edge is one for which it was proved that no shorter"
            " connection was missed; when all pairs were searched and all edges are certified, the clusters are those"
            " of an exhaustive computation. Where only nearby cells were searched, samples say how much was missed."
            " Noise sentences are close to nothing; those near enough to a cluster of their own sign get a"
            " second chance."
        )
    ]
    for name, certificate in certificates.items():
        items = [*_coverage(of_section(sentences, name), certificate), *certificate_items(certificate)]
        title = f"{name.capitalize()}: {certificate.clusters:,} clusters by {certificate.method}"
        blocks.append(KeyValues(items, title=title))
        if name in clusterings:
            tree = condensed_tree_figure(name, clusterings[name], of_section(clusters, name))
            blocks += [tree] if tree is not None else []
    return blocks


def _coverage(rows: pa.Table, certificate: Certificate) -> list[_Item]:
    assigned = rows.group_by("assigned").aggregate([("count", "sum"), ([], "count_all")]).to_pylist()
    of = {row["assigned"]: (row["count_all"], row["count_sum"]) for row in assigned}
    occurrences = sum(number for _, number in of.values())
    chances, noise = of.get("second_chance", (0, 0)), of.get("noise", (0, 0))
    return [
        ("Distinct sentences", f"{certificate.points:,}", f"{occurrences:,} with repeats"),
        ("Noise at first", f"{100 * certificate.noise_share:.1f} %", "of distinct sentences"),
        ("Second chances", f"{chances[0]:,}", f"distinct sentences, {chances[1]:,} with repeats"),
        (
            "Noise that remains",
            f"{percent(noise[0], rows.num_rows)}",
            f"of distinct sentences; {percent(noise[1], occurrences)} of all sentences as written",
        ),
    ]


def certificate_items(certificate: Certificate) -> list[_Item]:
    """What the certificate says, in words."""
    proved, edges = certificate.certified_edges, certificate.edges
    partial = certificate.sample_agreement is not None
    items: list[_Item] = [
        (
            "Certified edges",
            f"{proved:,} of {edges:,}" if edges else "does not apply",
            ("on what the cells hold" if partial else "every edge proved") if edges and proved == edges else "",
        )
    ]
    if edges:
        gap = 1 - certificate.least_weight / certificate.tree_weight if certificate.tree_weight else 0.0
        items += [
            ("Search", certificate.search, f"mode {certificate.mode}"),
            (
                "Weight of the tree",
                f"{certificate.tree_weight:,.4f}",
                ("minimal for the neighbours found" if partial else "minimal")
                if proved == edges
                else f"at most {100 * gap:.3f} % above the least possible",
            ),
            ("Persistence", f"{certificate.persistence:.3f}", "median over clusters"),
            ("Second searches", f"{certificate.second_searches:,}", f"in {certificate.rounds} rounds"),
        ]
    if certificate.checked_edges:
        items += [
            (
                "Neighbours found",
                f"{100 * certificate.recall:.2f} %",
                f"of a sample; at least {100 * certificate.recall_lower:.2f} % with 95 % confidence",
            ),
            (
                "Wrong edges",
                f"{certificate.wrong_edges} of {certificate.checked_edges} checked",
                f"at most {100 * certificate.wrong_share_upper:.2f} % with 95 % confidence",
            ),
        ]
    if certificate.checked_splits:
        items.append(
            ("Splits checked", f"{certificate.checked_splits:,}", f"{certificate.repaired_edges:,} edges repaired")
        )
    if certificate.margin is not None:
        items.append(
            (
                "Narrowest choice",
                f"{100 * certificate.margin:.2f} %",
                f"of stability, for {certificate.margin_points:,} points as one cluster or as"
                f" {certificate.margin_clusters:,}",
            )
        )
    if certificate.sample_agreement is not None:
        items.append(
            (
                "Agreement with exact mode",
                f"{certificate.sample_agreement:.4f}",
                f"adjusted Rand index on a sample of {certificate.sample_points:,}",
            )
        )
    seconds = {
        "neighbours": certificate.seconds_neighbours,
        "tree": certificate.seconds_tree,
        "hierarchy": certificate.seconds_hierarchy,
        "repair": certificate.seconds_repair,
        "checks": certificate.seconds_checks,
    }
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    items.append(("Seconds", f"{sum(seconds.values()):.2f}", parts))
    return items
