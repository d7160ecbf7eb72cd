"""Knowledge as tables: sentences, clusters, edges (schemas in raymedlt.schema)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymedlt.enrichment.graph import Arcs
from raymedlt.enrichment.knowledge import SectionFit
from raymedlt.schema import CLUSTERS, EDGES, SENTENCES


def sentences_table(fits: list[SectionFit]) -> pa.Table:
    """schema.SENTENCES: every distinct sentence of the training reports."""
    tables = []
    for fit in fits:
        section, count = fit.section, len(fit.section.keys)
        probability = np.where(np.array(fit.assigned, object) == "core", fit.clustering.probabilities, 0)
        tables.append(
            pa.table(
                {
                    "section": [section.name] * count,
                    "sentence_key": section.keys,
                    "text": section.texts,
                    "count": section.counts,
                    "cluster_id": fit.labels,
                    "probability": probability.astype(np.float32),
                    "assigned": fit.assigned,
                    "sign": fit.signs,
                },
                schema=SENTENCES,
            )
        )
    return pa.concat_tables(tables)


def clusters_table(fits: list[SectionFit]) -> pa.Table:
    """schema.CLUSTERS: size and occurrences count second chances too."""
    tables = []
    for fit in fits:
        clusters = len(fit.cluster_signs)
        inside = fit.labels >= 0
        tables.append(
            pa.table(
                {
                    "section": [fit.section.name] * clusters,
                    "cluster_id": np.arange(clusters, dtype=np.int32),
                    "size": np.bincount(fit.labels[inside], minlength=clusters).astype(np.int32),
                    "occurrences": np.bincount(
                        fit.labels[inside], fit.section.counts[inside], minlength=clusters
                    ).astype(np.int32),
                    "sign": fit.cluster_signs,
                    "purity": fit.purity.astype(np.float32),
                    "medoid": [fit.section.texts[number] for number in fit.medoids],
                    "persistence": fit.clustering.persistence,
                },
                schema=CLUSTERS,
            )
        )
    return pa.concat_tables(tables)


def edges_table(arcs: Arcs, section: str = "findings") -> pa.Table:
    """schema.EDGES: the arcs that may vouch for an addition, with their evidence."""
    columns = {"section": [section] * len(arcs.source), **arcs._asdict()}
    return pa.table(columns, schema=EDGES)
