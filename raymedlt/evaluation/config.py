"""Configuration of jobs/evaluate.py, and which models score written reports wherever that is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require

RadEvalMetric = Literal[
    "bleu", "rouge", "bertscore", "radeval_bertscore", "f1chexbert", "f1radbert_ct", "radgraph", "radgraph_radcliq",
    "radcliq", "ratescore", "srrbert", "temporal",
]  # fmt: skip
"""RadEval's metrics that compute here, with the code of its package; its others send reports to a service, or run code
that lies beside their weights."""


@dataclass(frozen=True, kw_only=True)
class ScorersConfig:
    """Models in local folders that score written reports."""

    bertscore: str | None = None
    """Local folder of a transformers encoder for BERTScore. Default: not computed, and said so."""
    chexbert: str | None = None
    """Local folder of CheXbert weights. Default: not computed, and said so."""
    radeval: tuple[RadEvalMetric, ...] = ()
    """Metrics of the package RadEval, radgraph among them (`pip install radeval`). Default: none."""
    radeval_folder: str | None = None
    """Local folder of their weights. Default: huggingface_hub's cache; nothing is downloaded."""


NO_SCORERS = ScorersConfig()


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Labels to judge additions by, where the reports bring none or others are wanted."""

    path: str | None = None
    """CSV file or URI with report_id or study_id, and labels ("|" between labels). Default: the reports' own labels."""
    format: Literal["auto", "openi_mesh", "padchest", "chexpert", "nih14"] = "auto"
    """Whose labels they are. auto: the scheme whose names they use."""

    def __post_init__(self) -> None:
        refuse_credentials("labels.path", self.path)


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """The audit sheet: additions for two readers to judge."""

    items: int = 200
    """Additions on the sheet, drawn by stratum."""
    decoys: int = 40
    """Known errors among them, which an attentive reader marks as contradictions."""
    read: str | None = None
    """A filled-in sheet (CSV) to read back: shares, agreement of the readers, decoys caught."""
    key: str | None = None
    """The key file of that sheet. Default: sheet/key.csv under `output`."""

    def __post_init__(self) -> None:
        refuse_credentials("sheet.read", self.read)
        refuse_credentials("sheet.key", self.key)
        require(self.items >= 1, "sheet.items", self.items, "at least 1")
        require(self.decoys >= 0, "sheet.decoys", self.decoys, "0 or more")


Part = Literal["recovery", "contradiction", "injection", "sheet"]
PARTS: tuple[Part, ...] = ("recovery", "contradiction", "injection", "sheet")


@dataclass(frozen=True, kw_only=True)
class TextScorersConfig(ScorersConfig):
    """generation: scores by models in local folders, beside those that need none."""

    clusters: str | None = None
    """Folder of a cluster model of findings (model/findings of jobs/enrich.py, clusters/findings of jobs/align.py).
    Default: that of an aligned run; else no cluster F1."""

    def __post_init__(self) -> None:
        refuse_credentials("scoring.clusters", self.clusters)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge a finished run, alone or against another one: scores with intervals, paired tests, tables, a page."""

    what: Literal["enrichment", "classifier", "synthesis", "generation"] = "enrichment"
    """What the run made: enrichment (of jobs/enrich.py), classifier (classify), synthesis (synthesize), generation:
    written reports (finetune, align)."""
    run: str = "runs/enrich"
    """Folder or URI of the finished run: what its job was given as --output."""
    against: str | None = None
    """Another finished run of the same kind: differences `run` - `against` on what both have, paired over patients
    (synthesis: independent shares)."""
    parts: list[Part] = field(default_factory=lambda: list(PARTS))
    """enrichment: recovery: hide sentences and see whether they are offered back; contradiction: additions against
    label tables; injection: known errors offered to the guard; sheet: a sample for two readers."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """enrichment: labels for the part contradiction."""
    folds: int = 5
    """enrichment, recovery: one of so many parts of the patients is scored, the others are learnt from."""
    injected_reports: int = 2000
    """enrichment, injection: reports drawn; each is offered at most one error and one good sentence of every kind."""
    sheet: SheetConfig = field(default_factory=SheetConfig)
    """enrichment: the audit sheet."""
    scoring: TextScorersConfig = field(default_factory=TextScorersConfig)
    """generation: scores by models in local folders."""
    bootstrap: int = 1000
    """Resamples of patients for the 95 % intervals; not of an audit."""
    permutations: int = 2000
    """against: of the paired randomisation tests; the smallest p is one in so many and one."""
    examples: int = 12
    """against, generation and enrichment: reports side by side, those that differ most."""
    seed: int = 0
    """Seed of every random choice."""
    output: str = "runs/evaluate"
    """Folder or URI that receives tables, figures and page. The same command again resumes."""
    describe: bool = False
    """Print what would be done and run nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output`, a sheet too, and begin anew."""
    max_rejected: int | None = None
    """Fail when more cells of a filled-in sheet than this are rejected. Default: no limit."""

    def __post_init__(self) -> None:
        for key in ("run", "against", "output"):
            refuse_credentials(key, getattr(self, key))
        require(bool(self.parts) or self.sheet.read is not None, "parts", self.parts, "at least one part")
        require(self.folds >= 2, "folds", self.folds, "at least 2")
        require(self.injected_reports >= 1, "injected_reports", self.injected_reports, "at least 1")
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "0 or more")
        require(self.permutations >= 1, "permutations", self.permutations, "at least 1")
        require(self.examples >= 0, "examples", self.examples, "0 or more")
        require(self.max_rejected is None or self.max_rejected >= 0, "max_rejected", self.max_rejected, "0 or more")
        require(
            not (self.restart and self.sheet.read),
            "restart",
            self.restart,
            "no --restart together with --sheet.read: it would delete the key of the filled-in sheet",
        )
