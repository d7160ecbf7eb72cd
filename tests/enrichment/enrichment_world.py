"""A small world of reports whose clusters are known by hand: every count in it can be checked on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymedlt.clustering.certificate import Certificate
from raymedlt.clustering.fit import Clustering
from raymedlt.clustering.hierarchy import NO_TREE
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.corpus import Section, distinct, sentences_of, study_ids, training_rows
from raymedlt.enrichment.knowledge import Knowledge, SectionFit, judge_section, learn
from raymedlt.enrichment.memory import complete

CONFIG = EnrichConfig(variants=1)

# Sentence keys of clusters 0, 1, ...: five denials that neither clash nor cover one another, and an abnormal one.
PNEUMOTHORAX = ["no pneumothorax", "there is no pneumothorax", "no visible pneumothorax"]
EFFUSION = ["no pleural effusion", "there is no pleural effusion", "no effusion"]
HEART = ["heart size is normal", "the heart is normal in size", "normal heart size"]
BONE = ["no acute bony abnormality", "no acute osseous abnormality"]
TRACHEA = ["the trachea is midline", "trachea is midline"]
AORTA = ["the aorta is normal", "the thoracic aorta is normal"]
LARGE_HEART = ["the heart is enlarged", "cardiomegaly is present", "there is cardiomegaly"]
CLUSTERS = [PNEUMOTHORAX, EFFUSION, HEART, BONE, TRACHEA, AORTA, LARGE_HEART]


def report_table(findings: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """Reports r000, r001, ... as schema.REPORTS."""
    ids = [f"r{number:03d}" for number in range(len(findings))]
    return complete(pa.table({"report_id": ids, "findings": list(findings), **columns}))


def text(*keys: str) -> str:
    """Sentences as a report writes them."""
    return " ".join(key.capitalize() + "." for key in keys)


def clustered(section: Section, clusters: Sequence[Sequence[str]]) -> tuple[npt.NDArray[np.float32], Clustering]:
    """One axis per cluster, one per sentence of no cluster."""
    label_of = {key: c for c, group in enumerate(clusters) for key in group}
    labels = np.array([label_of.get(key, -1) for key in section.keys], np.int32)
    axis = np.where(labels >= 0, labels, len(clusters) + np.arange(len(labels)))
    vectors = np.eye(len(clusters) + len(labels), dtype=np.float32)[axis] if len(labels) else np.zeros((0, 2), "f4")
    made = int(labels.max(initial=-1)) + 1
    certificate = Certificate("by hand", len(labels), made, 0.0, 0, 0, 0.0, 0, 0, 0.0, 0.0, 0.0)
    ones, cores = np.ones(len(labels), np.float32), np.zeros(len(labels))
    return vectors, Clustering(labels, ones, np.ones(made, np.float32), [], None, certificate, cores, NO_TREE)


def learnt(
    reports: pa.Table,
    config: EnrichConfig = CONFIG,
    clusters: Sequence[Sequence[str]] = CLUSTERS,
    near: dict[str, tuple[str, float]] | None = None,
) -> tuple[Knowledge, list[SectionFit]]:
    """Knowledge from reports with clusters by hand; near: a noise sentence -> (a clustered one, their cosine)."""
    rows = training_rows(reports, sentences_of(reports))
    studies = study_ids(rows)
    fits = []
    for name, groups in (("findings", clusters), ("impression", [])):
        section = distinct(rows, name, studies)
        vectors, clustering = clustered(section, groups)
        for key, (other, cosine) in (near or {}).items():
            if key in section.keys and other in section.keys:
                place = section.keys.index(key)
                vectors[place] *= np.sqrt(1 - cosine**2)
                vectors[place] += cosine * vectors[section.keys.index(other)]
        fits.append(judge_section(section, vectors, clustering, config, "en"))
    return learn(fits[0], fits[1], config, "en"), fits


def common_reports(studies: int = 40, seed: int = 0) -> list[str]:
    """Findings that draw from all normal clusters, each with probability 0.7 and in random words."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(studies):
        chosen = [group for group in CLUSTERS[:6] if rng.random() < 0.7] or [PNEUMOTHORAX]
        result.append(text(*(group[rng.integers(len(group))] for group in chosen)))
    return result
