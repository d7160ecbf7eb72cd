"""A finished enrichment run, read back from its output folder.

What was learnt isn't stored: clusters and vectors are (model/), and signs, donors and arcs follow from them and from
the reports in less time than reading them would take. Nothing is embedded again, so no encoder is needed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt import __version__
from raymedlt.clustering.model import ClusterModel
from raymedlt.config import EnrichConfig
from raymedlt.enrichment.audit.intervals import Share
from raymedlt.enrichment.corpus import SECTIONS, distinct, sentences_of, study_ids, training_rows
from raymedlt.enrichment.knowledge import Knowledge, SectionFit, judge_section, learn
from raymedlt.enrichment.memory import common_language
from raymedlt.errors import ConsistencyError, InputError
from raymedlt.parsing import parse
from raymedlt.schema import ADDITIONS, ENRICHED, REPORTS, SENTENCES, TRAIN, conform
from raymedlt.storage import FileEntry, Storage, sha256_of

MANIFEST = "manifest.json"
ADDED = pa.schema(
    [ADDITIONS.field(name) for name in ("report_id", "variant", "position", "sentence", "sentence_key", "cluster_id")]
)
"""What the audit reads of an addition: runs of earlier versions have these columns too."""
_JUDGED = pa.schema([SENTENCES.field(name) for name in ("section", "sentence_key", "sign", "cluster_id")])
_WORK = ("_work/", "_ledger/")  # may be deleted when a run is done


@dataclass(frozen=True)
class FinishedRun:
    """A run's reports and additions, and what it had learnt. Memory: O(reports + distinct sentences x width)."""

    storage: Storage
    manifest: dict[str, Any]
    config: EnrichConfig

    @property
    def uri(self) -> str:
        """Where it lies, without credentials."""
        return self.storage.uri

    @cached_property
    def reports(self) -> pa.Table:
        """Every valid report (schema.REPORTS), sorted by id."""
        return conform(self._enriched, REPORTS, "enriched").sort_by("report_id")

    @cached_property
    def coverage(self) -> Share:
        """Training reports with findings that were enriched, of all of these."""
        rows = self._enriched
        able = rows.filter(pc.and_(pc.equal(rows["split"], TRAIN), pc.not_equal(rows["findings"], "")))
        return Share(pc.sum(pc.equal(able["status"], "enriched")).as_py() or 0, able.num_rows)

    @cached_property
    def training(self) -> pa.Table:
        """The training reports in the run's language: those that may be enriched, if they have findings."""
        rows = self.reports
        return rows.filter(pc.and_(pc.equal(rows["split"], TRAIN), pc.equal(rows["language"], self.language)))

    @cached_property
    def enriched(self) -> pa.Table:
        """Every variant of every report (schema.ENRICHED)."""
        return self._table("enriched", ENRICHED)

    @cached_property
    def _enriched(self) -> pa.Table:
        """The first variant of every report."""
        return self.enriched.filter(pc.equal(self.enriched["variant"], 0))

    @cached_property
    def additions(self) -> pa.Table:
        """Every added sentence (`ADDED` columns of schema.ADDITIONS), sorted by report, variant and position."""
        order = [("report_id", "ascending"), ("variant", "ascending"), ("position", "ascending")]
        return self._table("additions", ADDED).sort_by(order)

    @cached_property
    def models(self) -> dict[str, ClusterModel]:
        """The cluster model of each section."""
        return {section: self._model(section) for section in SECTIONS}

    @cached_property
    def language(self) -> str:
        """The commonest language of the reports."""
        return common_language(self.reports)

    @cached_property
    def _learnt(self) -> tuple[Knowledge, list[SectionFit]]:
        rows = training_rows(self.reports, sentences_of(self.reports))
        studies = study_ids(rows)
        fits = []
        for name in SECTIONS:
            section, model = distinct(rows, name, studies), self.models[name]
            if section.keys != model.keys:
                raise InputError(
                    f"the model of {name} was fitted on {len(model.keys)} sentences, the run's reports hold "
                    f"{len(section.keys)}, and they are not the same",
                    "reports and models of one run, split into sentences by this version of raymedlt",
                    "run jobs/enrich.py again with this version",
                )
            fits.append(judge_section(section, model.vectors, model.clustering, self.config, self.language))
        return learn(fits[0], fits[1], self.config, self.language), fits

    @property
    def knowledge(self) -> Knowledge:
        """What the run had learnt, by the rules of this version."""
        return self._learnt[0]

    @property
    def fits(self) -> list[SectionFit]:
        """Findings, then impression."""
        return self._learnt[1]

    def embed(self, keys: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of sentence keys that the run has embedded, float32 [N, D].

        Raises:
            InputError: a key that no training report of the run holds.
        """
        place, vectors = self._vectors
        try:
            return vectors[[place[key] for key in keys]]
        except KeyError:
            raise InputError("a sentence that the run never embedded", "sentences of its training reports") from None

    @cached_property
    def _vectors(self) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
        models = [model for model in self.models.values() if len(model.keys)]
        place: dict[str, int] = {}
        for key in (key for model in models for key in model.keys):
            place.setdefault(key, len(place))  # a key of both sections has one vector; the first one counts
        rows = np.zeros((len(place), models[0].vectors.shape[1] if models else 1), np.float32)
        for model in reversed(models):
            rows[[place[key] for key in model.keys]] = model.vectors
        return place, rows

    def warnings(self) -> list[str]:
        """What limits the audit of this run, in words."""
        found = []
        version = self.manifest.get("versions", {}).get("raymedlt")
        if version != __version__:
            found.append(f"The run was made by raymedlt {version}; its sentences are judged here by {__version__}.")
        if self._rules_changed():
            found.append(
                "The rules that judge sentences have changed since the run: hidden sentences and injected errors meet "
                "the new rules, the run's own additions were written under the old ones. Run jobs/enrich.py again."
            )
        if not self.knowledge.policy.guard:
            found.append(
                f"The run's policy '{self.config.policy}' has no guard; the guard is tested here all the same."
            )
        if self.config.control != "semantic":
            found.append(f"The run is the control '{self.config.control}': its additions are not meant to be true.")
        return found

    def _rules_changed(self) -> bool:
        """Whether this version gives a sentence another sign or cluster than the run's table says."""
        table = self._table("sentences", _JUDGED)
        columns = [table[name].to_pylist() for name in _JUDGED.names]
        kept = {(section, key): (sign, label) for section, key, sign, label in zip(*columns, strict=True)}
        now = {
            (fit.section.name, key): (sign, label)
            for fit in self.fits
            for key, sign, label in zip(fit.section.keys, fit.signs, fit.labels.tolist(), strict=True)
        }
        return kept != now

    def _table(self, name: str, schema: pa.Schema) -> pa.Table:
        files = [entry["name"] for entry in self.manifest["files"] if entry["name"].startswith(f"{name}/")]
        tables = [conform(self.storage.read_table(file), schema, name) for file in sorted(files)]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _model(self, section: str) -> ClusterModel:
        return ClusterModel.load(self.storage.sub(f"model/{section}").address)


def open_run(place: str, *, check: bool = True, key: str = "run") -> FinishedRun:
    """The finished run in the folder or at the URI `place`.

    Args:
        key: of the configuration that names the run, for messages.
        check: compare every file that the manifest lists with its sha256 (reads all of them once).

    Raises:
        InputError: no finished enrichment run is there.
        ConsistencyError: a file is missing or differs from the manifest.
    """
    storage = Storage.of(place)
    try:
        manifest = json.loads(storage.read_bytes(MANIFEST))
        entries = [FileEntry.from_json(entry) for entry in manifest["files"]]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"'{storage.uri}' holds no finished run (no {MANIFEST})",
            "the output folder of jobs/enrich.py, after it has ended",
            f"give it with --{key}, or run jobs/enrich.py first",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{MANIFEST} in '{storage.uri}' can't be read", "the file as jobs/enrich.py wrote it"
        ) from None
    if not {"enriched", "additions", "model"} <= {entry.name.split("/")[0] for entry in entries}:
        raise InputError(
            f"'{storage.uri}' is no enrichment run", "the output folder of jobs/enrich.py", f"check --{key}"
        )
    if check:
        _check_files(storage, entries)
    return FinishedRun(storage, manifest, _config_of(storage))


def _check_files(storage: Storage, entries: list[FileEntry]) -> None:
    for entry in entries:
        if entry.name.startswith(_WORK):
            continue
        try:
            digest = sha256_of(storage.read_bytes(entry.name))
        except FileNotFoundError:
            digest = "missing"
        if digest != entry.sha256:
            raise ConsistencyError(
                f"'{entry.name}' in '{storage.uri}' is {'missing' if digest == 'missing' else 'not as written'}",
                f"the file that {MANIFEST} lists",
                "run jobs/enrich.py again with --restart",
            )


def _config_of(storage: Storage) -> EnrichConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_bytes(storage.read_bytes("config.yaml"))
        return parse(EnrichConfig, ["--config", str(file)], "config.yaml of the run")
