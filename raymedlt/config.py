"""Configuration of the jobs: one frozen dataclass per job. `parsing.py` reads them from YAML and the command line.

A docstring under each field is its help. What a field changes decides where it counts: fields named in `NOT_HASHED`
steer how a run is carried out (where, with how many workers) and never what comes out, so they may differ between a run
and its resumption, and so may the way to a finished run (`FINISHED_RUNS`); any other difference is another run (see
ledger.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from raymedlt.errors import ConfigError

NOT_HASHED = ("output", "workers", "describe", "restart", "max_rejected", "ray_from", "reports.phi")
FINISHED_RUNS = ("synthetic.path", "text.enriched", "finetuned", "run", "against")
"""Runs of other jobs. Their content is part of a run's data hash, so here it counts only whether one is given: a folder
may be named in another way, or have moved."""


@dataclass(frozen=True, kw_only=True)
class ReportsConfig:
    """Where the reports are and how to read them."""

    path: str | None = None
    """File, folder, glob or URI of the reports. Default: the 3,955 OpenI reports that torchxrayvision carries."""
    format: Literal["openi", "mimic", "rexgradient", "padchest", "chexpert_plus", "csv", "jsonl", "parquet"] = "openi"
    """How the source is laid out."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the source's, for csv, jsonl and parquet: {findings: FINDINGS_TEXT}."""
    language: str | None = None
    """Language of the reports (en, es). Default: what the format says, else en."""
    max_chars: int = 100_000
    """A report with a longer section (characters) is rejected."""
    phi: Literal["warn", "refuse", "ignore"] = "warn"
    """What to do where texts hold signs of patients or staff (names, dates, ids, phone numbers, e-mail, addresses):
    warn with the number of reports by kind, end the run after reading, or say nothing. No substitute for
    de-identification."""

    def __post_init__(self) -> None:
        refuse_credentials("reports.path", self.path)
        require(self.max_chars > 0, "reports.max_chars", self.max_chars, "a positive number of characters")


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """How sentences become vectors."""

    model: str | None = None
    """Folder or hub name of a sentence-transformers model. Default: the packaged all-MiniLM-L6-v2, offline."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor has it and a sample agrees with float32 (cosine >= .9999); else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder runs. auto: a GPU if this machine or the Ray cluster has one. Settled once per run."""
    batch_sentences: int = 128
    """At most so many sentences, all of one length, are computed together. On a CPU it changes the speed alone."""
    shard_sentences: int = 2048
    """Distinct sentences per shard: the unit that is written, resumed and retried."""

    def __post_init__(self) -> None:
        require(self.batch_sentences > 0, "embedding.batch_sentences", self.batch_sentences, "at least 1")
        require(
            self.shard_sentences >= self.batch_sentences,
            "embedding.shard_sentences",
            self.shard_sentences,
            "at least embedding.batch_sentences",
        )


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """How sentences become clusters."""

    method: Literal["hdbscan", "dbscan", "kmeans"] = "hdbscan"
    """hdbscan: exact, certified spanning tree; dbscan and kmeans: for comparison."""
    min_cluster_size: int = 5
    """hdbscan: fewest distinct sentences in a cluster."""
    min_samples: int = 5
    """hdbscan, dbscan: neighbours that make a point dense (hdbscan does not count the point itself, dbscan does)."""
    neighbours: int = 16
    """hdbscan: length of the first neighbour lists; longer ones need fewer second searches for the spanning tree."""
    mode: Literal["auto", "exact", "certified"] = "auto"
    """hdbscan: exact looks at every pair and proves every edge; certified looks at the cells near a point and measures
    what it may have missed. auto: exact below clustering.certified_from points."""
    certified_from: int = 300_000
    """hdbscan, mode auto: from this many distinct sentences on, certified (exact takes two to three minutes of two
    cores there, and 3 to 4 times as long for twice as many)."""
    recall: float = 0.995
    """hdbscan, certified: share of true neighbours that the cells must hold; measured on a sample."""
    shard_points: int = 8192
    """hdbscan on Ray: points whose neighbour lists are one shard, the unit that is written, resumed and retried. With
    fewer distinct sentences than two shards the driver clusters alone."""
    ties: Literal["auto", "hdbscan", "simultaneous"] = "auto"
    """hdbscan: equal distances in the order of the hdbscan library, or all at once as in its paper. auto: the library's
    where every pair was looked at, all at once where only cells were."""
    eps: float = 0.5
    """dbscan: radius, Euclidean distance of unit vectors."""
    clusters: int = 1000
    """kmeans: number of clusters."""
    second_chance: float = 0.8
    """A noise sentence joins the cluster of its nearest clustered sentence at this cosine or above; 1 turns it off."""

    def __post_init__(self) -> None:
        require(self.min_cluster_size >= 2, "clustering.min_cluster_size", self.min_cluster_size, "at least 2")
        require(self.min_samples >= 1, "clustering.min_samples", self.min_samples, "at least 1")
        require(self.neighbours >= self.min_samples, "clustering.neighbours", self.neighbours, "at least min_samples")
        require(0 < self.second_chance <= 1, "clustering.second_chance", self.second_chance, "a cosine in (0, 1]")
        require(self.certified_from >= 0, "clustering.certified_from", self.certified_from, "0 or more")
        require(self.shard_points >= 1, "clustering.shard_points", self.shard_points, "at least 1")
        require(0 < self.recall < 1, "clustering.recall", self.recall, "a share in (0, 1)")
        require(self.eps > 0, "clustering.eps", self.eps, "a positive distance")
        require(self.clusters >= 1, "clustering.clusters", self.clusters, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Which findings go together (SemEnrich, section on co-occurrence)."""

    min_share: float = 0.001
    """An arc u -> c needs more than this share of u's co-occurrences (the paper's threshold on A-hat)."""
    min_support: int = 3
    """An arc needs more than this number of training studies that hold both clusters."""
    veto_expected: float = 5.0
    """A missing arc u -> c is a veto only where chance alone would have shown this many studies with both (Cochran's
    rule: smaller expected counts can't tell). 0 makes every missing arc a veto, as in the paper (and under the
    policies "paper" and "strict")."""
    min_purity: float = 0.95
    """A cluster whose sentences agree less than this on their sign is "mixed" and never added."""

    def __post_init__(self) -> None:
        require(0 <= self.min_share < 1, "graph.min_share", self.min_share, "a share in [0, 1)")
        require(self.min_support >= 0, "graph.min_support", self.min_support, "0 or more")
        require(self.veto_expected >= 0, "graph.veto_expected", self.veto_expected, "0 or more")
        require(0 < self.min_purity <= 1, "graph.min_purity", self.min_purity, "a share in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """How much is added, and how."""

    max_added: int | None = None
    """At most this many sentences are added to a report. Default: no limit, as in the paper."""
    max_cliques: int = 10_000
    """Stop listing a report's maximal valid sets at this number; reports that were cut off are counted."""
    shard_reports: int = 2000
    """Reports per shard: the unit that is written, resumed and retried."""

    def __post_init__(self) -> None:
        require(self.max_added is None or self.max_added >= 1, "writing.max_added", self.max_added, "at least 1")
        require(self.max_cliques >= 1, "writing.max_cliques", self.max_cliques, "at least 1")
        require(self.shard_reports >= 1, "writing.shard_reports", self.shard_reports, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Second guards, off by default: they look at what the rules of the guard let pass (not under policy "paper")."""

    nli: str | None = None
    """Local folder of a natural language inference model (transformers sequence classification, safetensors, labels
    contradiction, entailment and neutral). It reads each sentence of a report beside each addition. Runs on CPUs."""
    nli_threshold: float = 0.5
    """An addition that contradicts any sentence of the report with this probability or more is refused."""
    nli_batch: int = 64
    """At most so many pairs of sentences, all of one length, are computed together. It changes the speed alone."""
    nli_tries: int = 5
    """Sentences of one cluster that are tried before the cluster is given up for the report."""
    scores: str | None = None
    """Parquet file or folder, or CSV file, of an image classifier's calibrated probabilities: the columns image_id,
    patient_id, split, class, label, probability of jobs/classify.py, and study_id and report_id if they are known."""
    scheme: Literal["nih14", "chexpert", "padchest"] = "nih14"
    """Whose class names the scores use."""
    calibration: str | None = None
    """Labelled scores (same columns) that the thresholds are set on. Default: the labelled validation rows of `scores`.
    They must not be of images that the classifier was trained on."""
    alpha: float = 0.1
    """Of the studies that truly show a class, at most this share may have its denial pass (split conformal)."""

    def __post_init__(self) -> None:
        refuse_credentials("guard.scores", self.scores)
        refuse_credentials("guard.calibration", self.calibration)
        require(0 < self.nli_threshold <= 1, "guard.nli_threshold", self.nli_threshold, "a probability in (0, 1]")
        require(self.nli_batch >= 1, "guard.nli_batch", self.nli_batch, "at least 1")
        require(self.nli_tries >= 1, "guard.nli_tries", self.nli_tries, "at least 1")
        require(0 < self.alpha < 1, "guard.alpha", self.alpha, "a share in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class EnrichConfig:
    """Enrich radiology reports with the normal statements that they leave out; leave tables, a model and a page."""

    reports: ReportsConfig = field(default_factory=ReportsConfig)
    """The reports."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """The sentence encoder."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """The clustering of distinct sentences."""
    graph: GraphConfig = field(default_factory=GraphConfig)
    """The co-occurrence graph."""
    writing: WritingConfig = field(default_factory=WritingConfig)
    """The writing of additions."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Second guards of the additions."""
    policy: Literal["paper", "safe", "strict"] = "safe"
    """paper: as published (no guard, unclustered sentences skip the report); safe: guarded; strict: also, all
    clusters of a report must vouch for an addition, and nothing joins a cluster late. safe without late joiners
    (clustering.second_chance 1) lies between."""
    control: Literal["semantic", "random", "paraphrase", "none"] = "semantic"
    """semantic: the method; random, paraphrase, none: controls for ablation studies."""
    variants: int = 1
    """Draws per report: each is a row of the table `enriched` (variant 0, 1, ...)."""
    seed: int = 0
    """Seed of every random choice; a report's choices depend on it and the report's id only."""
    output: str = "runs/enrich"
    """Folder or URI (s3://, gs://, abfs://) that receives tables, model and page. The same command again resumes."""
    workers: int | None = None
    """Processes or threads that work side by side. Default: one per CPU. Results do not depend on it."""
    ray_from: int = 50_000
    """From this many distinct sentences on, Ray's worker processes do the work; below, threads of this process, which
    saves Ray's start-up. Inside a Ray job or with RAY_ADDRESS set, and with 0, it is always Ray."""
    describe: bool = False
    """Print what would be done (stages, rows, resources, paths) and run nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output` and begin anew."""
    max_rejected: int | None = None
    """Fail when more rows than this are rejected. Default: no limit (rejected rows are kept with reasons)."""

    def __post_init__(self) -> None:
        refuse_credentials("output", self.output)
        second = self.guard.nli is not None or self.guard.scores is not None
        require(not second or self.policy != "paper", "policy", self.policy, "safe or strict with a second guard")
        require(self.variants >= 1, "variants", self.variants, "at least 1")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.max_rejected is None or self.max_rejected >= 0, "max_rejected", self.max_rejected, "0 or more")


def require(condition: bool, key: str, got: object, expected: str) -> None:
    """Raise ConfigError, which names the key, what it got and what was expected, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key} is {got!r}", expected, f"change --{key}")


_SECRET_PARAMETERS = frozenset({"access_key", "client_secret", "password", "secret", "secret_key", "sig", "token"})


def refuse_credentials(key: str, uri: str | None) -> None:
    """The configuration is stored with the results, so a URI may not carry a key. The message never shows the value.

    Names that are no secret may stand before an "@": the container of abfs://container@account, and gs://anonymous@.
    """
    if uri is None or "://" not in uri:
        return
    scheme, _, rest = uri.partition("://")
    place, _, query = rest.partition("?")
    user, at, _ = place.rpartition("@")  # over the whole place: a secret with a bare "/" ends the host early
    named = {word.partition("=")[0].lower() for word in query.split("&")}
    harmless = ":" not in user and (scheme in ("abfs", "abfss") or user == "anonymous" or "/" in user)
    if (at and not harmless) or named & _SECRET_PARAMETERS:
        raise ConfigError(
            f"{key} is a URI with credentials in it, and the configuration is stored with the results",
            "a URI without user name, password or token",
            "give credentials by the environment (AWS_ACCESS_KEY_ID, ...) or by the machine's role",
        )


def flatten(config: Any) -> dict[str, Any]:
    """A nested configuration as {"section.field": value}; values are plain JSON types."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat.update({f"{item.name}.{key}": inner for key, inner in flatten(value).items()})
        else:
            flat[item.name] = value
    return flat


def hashed_part(config: Any) -> dict[str, Any]:
    """The fields that decide what comes out (see NOT_HASHED); of finished runs whether they are given."""
    return {
        key: value is not None if key in FINISHED_RUNS else value
        for key, value in flatten(config).items()
        if key not in NOT_HASHED
    }


def config_hash(config: Any) -> str:
    """Sixteen hexadecimal digits that name everything that can change the results."""
    return hashlib.sha256(json.dumps(hashed_part(config), sort_keys=True).encode()).hexdigest()[:16]


def to_yaml(config: Any) -> str:
    """The resolved configuration as a YAML file that `--config` reads back."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)
