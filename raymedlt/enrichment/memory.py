"""Enrichment in memory: reports in, tables out, no Ray and no files. The job does the same shard by shard."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.clustering.model import ClusterModel
from raymedlt.config import EnrichConfig
from raymedlt.cpus import cpus
from raymedlt.embedding.encoder import PrecisionChoice, choose_precision, load_encoder
from raymedlt.enrichment.corpus import SECTIONS, distinct, sentences_of, study_ids, training_rows
from raymedlt.enrichment.knowledge import Knowledge, SectionFit, cluster_section, judge_section, learn
from raymedlt.enrichment.tables import clusters_table, edges_table, sentences_table
from raymedlt.enrichment.writing import write_reports
from raymedlt.errors import InputError
from raymedlt.machine import choose_device
from raymedlt.schema import REPORTS, SPLITS, conform

_FALLBACK = {"study_id": "report_id", "patient_id": "study_id"}

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class EnrichmentResult:
    """The tables of interfaces (see raymedlt.schema), the fitted cluster models, and counts."""

    enriched: pa.Table
    additions: pa.Table
    refusals: pa.Table
    sentences: pa.Table
    clusters: pa.Table
    edges: pa.Table
    models: dict[str, ClusterModel]
    summary: dict[str, Any]


def enrich(reports: pa.Table, config: EnrichConfig | None = None) -> EnrichmentResult:
    """Enrich reports that fit in memory.

    Args:
        reports: at least the columns report_id and findings or impression; the others of schema.REPORTS are filled in
            (study_id by report_id, patient_id by study_id, split by "train", language by "en", texts and lists by
            nothing), and so are nulls and empty ids.
        config: default `EnrichConfig()`; its `reports`, `output` and job verbs are not looked at.

    Raises:
        InputError: a column is missing, a report id is given twice, or no report has any text.
    """
    config = config or EnrichConfig()
    reports = complete(reports)
    embed = Embedder(config)
    knowledge, fits = fit(reports, config, embed)
    written = write_reports(knowledge, reports, config)
    return EnrichmentResult(
        enriched=written.enriched,
        additions=written.additions,
        refusals=written.refusals,
        sentences=sentences_table(fits),
        clusters=clusters_table(fits),
        edges=edges_table(knowledge.arcs),
        models={each.section.name: model_of(each, config, embed.choice.precision) for each in fits},
        summary=written.summary,
    )


class Embedder:
    """The configured sentence encoder as a function of sentences; loads the model when first called.

    Raises (when called):
        ConfigError: a GPU is asked for, and this machine has none.
    """

    def __init__(self, config: EnrichConfig) -> None:
        self.config = config

    @functools.cached_property
    def choice(self) -> PrecisionChoice:
        """The precision, settled once."""
        options = self.config.embedding
        device = choose_device(options.device, "embedding")
        return choose_precision(options.model, options.precision, (), options.batch_sentences, device)

    def __call__(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        options = self.config.embedding
        encoder = load_encoder(options.model, self.choice.precision, options.batch_sentences, self.choice.device)
        return encoder.encode(sentences, threads=self.config.workers or cpus())


def complete(reports: pa.Table) -> pa.Table:
    """`reports` with every column of schema.REPORTS.

    Raises:
        InputError: no column report_id, neither findings nor impression, a report id twice or missing, or an unknown
            split.
    """
    if "report_id" not in reports.column_names or not {"findings", "impression"} & set(reports.column_names):
        raise InputError(
            f"a table with the columns {reports.column_names}",
            "report_id, and findings or impression",
            "rename the columns of the table",
        )
    rows = reports.num_rows
    defaults: dict[str, Any] = {"split": "train", "language": "en"}
    for name in REPORTS.names:
        field = REPORTS.field(name)
        if name in reports.column_names:
            if name in _FALLBACK:
                reports = _identified(reports, name)
            else:
                reports = _without_nulls(reports, name, [] if pa.types.is_list(field.type) else defaults.get(name, ""))
            continue
        if name in _FALLBACK:
            column = reports[_FALLBACK[name]]
        elif pa.types.is_list(field.type):
            column = pa.array([[]] * rows, field.type)
        else:
            column = pa.array([defaults.get(name, "")] * rows, field.type)
        reports = reports.append_column(name, column)
    reports = conform(reports, REPORTS, "reports")
    if pc.any(pc.equal(reports["report_id"], "")).as_py():
        raise InputError("a report without a report_id", "an id in every row", "give every report an id")
    if set(reports["split"].unique().to_pylist()) - set(SPLITS):
        raise InputError("the column split holds other words", ", ".join(SPLITS), "rename the splits")
    if len(reports["report_id"].unique()) != rows:
        raise InputError("a report_id is given twice", "distinct report ids", "drop or rename the duplicates")
    return reports


def _without_nulls(reports: pa.Table, name: str, default: object) -> pa.Table:
    """`reports` with `default` for the nulls of column `name`."""
    if not reports[name].null_count:
        return reports
    filled = [default if cell is None else cell for cell in reports[name].to_pylist()]
    return reports.set_column(reports.column_names.index(name), name, pa.array(filled))


def _identified(reports: pa.Table, name: str) -> pa.Table:
    """`reports` with study or patient ids wherever there was none."""
    column, fallback = reports[name].to_pylist(), reports[_FALLBACK[name]].to_pylist()
    filled = [str(other if own is None or own == "" else own) for own, other in zip(column, fallback, strict=True)]
    return reports.set_column(reports.column_names.index(name), name, pa.array(filled, pa.string()))


def fit(reports: pa.Table, config: EnrichConfig, embed: Embed) -> tuple[Knowledge, list[SectionFit]]:
    """Learn from the training reports of `reports` (schema.REPORTS); findings first, then impression.

    Raises:
        InputError: the training reports hold no sentence.
    """
    rows = training_rows(reports, sentences_of(reports))
    if rows.num_rows == 0:
        raise InputError(
            f"{reports.num_rows} reports without a sentence to learn from",
            "training reports with findings or impressions",
            "check the columns and the split of the reports",
        )
    studies = study_ids(rows)
    language = common_language(reports)
    sections = [distinct(rows, name, studies) for name in SECTIONS]
    keys = sorted({key for section in sections for key in section.keys})
    place = {key: number for number, key in enumerate(keys)}
    vectors = embed(keys)
    fits = []
    for section in sections:
        own = vectors[[place[key] for key in section.keys]]
        fits.append(judge_section(section, own, cluster_section(section, own, config), config, language))
    return learn(fits[0], fits[1], config, language), fits


def common_language(reports: pa.Table) -> str:
    """The commonest language of the reports (the smaller name on ties)."""
    languages = reports["language"].to_pylist()
    return min(set(languages), key=lambda name: (-languages.count(name), name)) if languages else "en"


def model_of(fit: SectionFit, config: EnrichConfig, precision: str) -> ClusterModel:
    """The cluster model of a section, to be saved or asked about new sentences (canonical keys, core labels)."""
    return ClusterModel(
        keys=fit.section.keys,
        vectors=fit.vectors,
        clustering=fit.clustering,
        limit=float(np.sqrt(2 - 2 * config.clustering.second_chance)),
        encoder=config.embedding.model,
        precision=precision,
        information={
            "section": fit.section.name,
            "signs": fit.cluster_signs,
            "purity": [round(float(p), 4) for p in fit.purity],
            "medoids": [fit.section.keys[number] for number in fit.medoids],
        },
    )
