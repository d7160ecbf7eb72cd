"""The end of the job: scores, tables, model, page, card, manifest; and the counts that must agree."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.classifier.ablation import other_uses, variants
from raymedlt.classifier.backbone import LITE0
from raymedlt.classifier.config import ClassifyConfig, data_of
from raymedlt.classifier.evaluation import (
    Evaluation,
    ablation_rows,
    evaluate,
    mean_logits,
    metrics_of,
    predictions_table,
)
from raymedlt.classifier.model import LabelGraphClassifier, from_safetensors, to_safetensors
from raymedlt.classifier.predictor import ABOUT, FORMAT
from raymedlt.classifier.scoring import logits_of
from raymedlt.classifier.task import TRAINED
from raymedlt.classifier.worth import Scores, worth_of
from raymedlt.config import config_hash, to_yaml
from raymedlt.cpus import use_threads
from raymedlt.images.examples import Examples
from raymedlt.images.networks import weights_bytes
from raymedlt.images.stages import data_parts, rejected_rows
from raymedlt.ledger import FOLDER, Ledger
from raymedlt.machine import Settings, driver_device
from raymedlt.progress import Progress
from raymedlt.schema import TEST, VALIDATION
from raymedlt.storage import FileEntry, Storage, content_hash, sha256_of

PAGE = "report.html"
FINISH = "finish"


@dataclass(frozen=True)
class Outcome:
    """What the stages before left."""

    config: ClassifyConfig
    labels: dict[str, Any]
    prepared: dict[str, dict[str, Any]]
    arranged: dict[str, Any]
    settings: Settings
    members: list[str]
    workers: int
    where: str


def data_hash(config: ClassifyConfig) -> str:
    """Names the input: labels, images, synthetic images and starting weights."""
    parts = list(data_parts(data_of(config), config.output))
    if config.model.weights not in (None, LITE0):
        parts.append(sha256_of(weights_bytes(str(config.model.weights), "model.weights")))
    return content_hash(*parts)


def finish(
    outcome: Outcome, examples: Examples, storage: Storage, ledger: Ledger, progress: Progress, began: float
) -> None:
    """Score, and write everything that the run leaves."""
    config = outcome.config
    if driver_device(outcome.settings) != outcome.settings.device:
        progress.say("warning: trained on GPUs, but this machine has none: scoring goes on its CPU, slowly")
    compared = other_uses(config)
    networks = len(outcome.members) * (1 + len(compared)) + len(_others(config))
    with progress.stage("score", total=networks, unit="networks") as advance:
        members, logits = [], []
        for name in outcome.members:
            members.append(_network(storage, name))
            logits.append(_both(members[-1], examples, outcome))
            advance(1)
        evaluation = evaluate(
            examples, mean_logits([each[0] for each in logits]), mean_logits([each[1] for each in logits]), config
        )
        first = evaluation if len(members) == 1 else evaluate(examples, *logits[0], config)
        others = {}
        for name, variant in _others(config).items():
            scored = _both(_network(storage, f"without-{name}"), examples, outcome)
            others[name] = evaluate(examples, *scored, variant)
            advance(1)

        def scores_of(name: str) -> Scores:
            advance(1)
            return _both(_network(storage, name), examples, outcome)

        worth = worth_of(compared, examples, evaluation, logits, scores_of, config)
    with progress.stage("write page and model"):
        metrics = metrics_of(evaluation, examples)
        if worth:
            metrics["synthetic"] = worth
        if others:
            metrics["ablation"] = ablation_rows(first, others)
        entries = _predictions(storage, examples, evaluation)
        entries += write_model(storage, outcome, examples, members, evaluation)
        entries.append(storage.write_bytes("metrics.json", _json(metrics)))
        entries += _words(
            storage, ledger, outcome, examples, members[0], evaluation, first, others, worth, progress, began
        )
        manifest = {
            "configuration": config_hash(config),
            "versions": versions(),
            "files": [entry.to_json() for entry in [*ledger.manifest(), *entries]],
        }
        entries.append(storage.write_bytes("manifest.json", _json(manifest)))
        ledger.commit(FINISH, "page", entries, {})


def _others(config: ClassifyConfig) -> dict[str, ClassifyConfig]:
    """The variants of the ablation but the full one."""
    return dict(list(variants(config).items())[1:]) if config.ablate else {}


def _network(storage: Storage, name: str) -> LabelGraphClassifier:
    return from_safetensors(storage.read_bytes(f"_work/trained/{name}.safetensors"))


def _both(model: LabelGraphClassifier, examples: Examples, outcome: Outcome) -> tuple[Any, Any]:
    """Logits of the validation and of the test images."""
    own, settings = outcome.config.evaluation, outcome.settings
    use_threads(settings.threads)
    device = driver_device(settings)
    model.to(device)
    parts = [
        logits_of(
            model, examples.pixels, examples.rows(split), own.batch_images, device, settings.precision, tta=own.tta
        )
        for split in (VALIDATION, TEST)
    ]
    return parts[0], parts[1]


def _predictions(storage: Storage, examples: Examples, evaluation: Evaluation) -> list[FileEntry]:
    return [
        storage.write_table(
            f"predictions/{split}.parquet", predictions_table(examples, examples.rows(split), probabilities)
        )
        for split, probabilities in ((VALIDATION, evaluation.validation_NC), (TEST, evaluation.test_NC))
    ]


def write_model(
    storage: Storage,
    outcome: Outcome,
    examples: Examples,
    members: list[LabelGraphClassifier],
    evaluation: Evaluation,
) -> list[FileEntry]:
    """The folder `model` (see predictor.py)."""
    config = outcome.config
    names = [f"{name}.safetensors" for name in outcome.members]
    about = {
        "format": FORMAT,
        "members": names,
        "classes": list(examples.classes),
        "thresholds": evaluation.thresholds_C.tolist(),
        "calibration": json.loads(evaluation.calibration.to_json()),
        "images": {"size": config.images.size, "fit": config.images.fit, "max_pixels": config.images.max_pixels},
        "scoring": {
            "batch_images": config.evaluation.batch_images,
            "precision": outcome.settings.precision,
            "tta": config.evaluation.tta,
        },
        "phantom": config.images.path is None,
        "configuration": config_hash(config),
        "raymedlt": __version__,
    }
    entries = [
        storage.write_bytes(f"model/{name}", to_safetensors(model.cpu()))
        for name, model in zip(names, members, strict=True)
    ]
    return [*entries, storage.write_bytes(f"model/{ABOUT}", _json(about))]


def _words(
    storage: Storage,
    ledger: Ledger,
    outcome: Outcome,
    examples: Examples,
    model: LabelGraphClassifier,
    evaluation: Evaluation,
    first: Evaluation,
    others: Mapping[str, Evaluation],
    worth: Mapping[str, Any],
    progress: Progress,
    began: float,
) -> list[FileEntry]:
    """Page, card, configuration, timings."""
    from raymedlt.classifier.card import model_card
    from raymedlt.classifier.outcome import report_of
    from raymedlt.classifier.page import classifier_page
    from raymedlt.classifier.report import warnings_of

    marker = ledger.done(TRAINED, outcome.members[0]) or {}
    report = report_of(
        outcome, examples, model, evaluation, first, others, worth, marker.get("history", []),
        seconds=dict(progress.timings), rejected=rejected_rows(storage),
    )  # fmt: skip
    where = storage.uri.rstrip("/")
    page = classifier_page(
        report,
        command=command_line(),
        paths={name: f"{where}/{name}" for name in ("predictions", "rejected")},
    )
    for warning in warnings_of(report):
        progress.say(f"warning: {warning}")
    timings = {"work": dict(progress.timings), "seconds_before_the_page_was_written": time.monotonic() - began}
    return [
        storage.write_bytes(PAGE, page.encode()),
        storage.write_bytes("README.md", model_card(report).encode()),
        storage.write_bytes("config.yaml", to_yaml(outcome.config).encode()),
        storage.write_bytes("timings.json", _json(timings)),
    ]


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    from importlib import metadata

    found = {"raymedlt": __version__}
    for name in (
        "torch",
        "torchvision",
        "timm",
        "torch-geometric",
        "numpy",
        "scipy",
        "pyarrow",
        "pillow",
        "pydicom",
        "ray",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found  # fmt: skip


def description(config: ClassifyConfig, storage: Storage, workers: int) -> str:
    """The text of `--describe`."""
    own, model = config.training, config.model
    data_hash(config)  # says what can't be found
    done: dict[str, int] = {}
    for name in storage.list_files(FOLDER):
        parts = name.split("/")
        if len(parts) == 3:
            done[parts[1]] = done.get(parts[1], 0) + 1
    phantom = config.phantom
    source = (
        f"phantom: {phantom.images:,} training and validation images, {phantom.test_images:,} or more test images, "
        f"label sets of {phantom.prevalence}"
        if config.images.path is None
        else f"{config.images.path}, labels {config.labels.path} ({config.labels.format})"
    )
    parts = [
        *(["gate"] if model.gate else []),
        *([] if model.attention == "off" else [f"attention {model.attention}"]),
        *([] if model.graph == "off" else [f"label graph {model.graph}"]),
    ]
    compared = other_uses(config)
    trainings = config.evaluation.members * (1 + len(compared)) + len(_others(config))
    steps = (
        ("labels", "read the label table, reject rows that can't be used"),
        ("prepare", f"decode or draw, {config.images.size} px, {config.images.shard_images:,} images per shard"),
        ("arrange", "patient-disjoint splits, leak check, choice of classes"),
        (TRAINED, f"{trainings} training(s), {own.stage1_epochs} + {own.stage2_epochs} epochs at most, "
                  f"batch {own.batch_images}, {own.replicas} replica(s)"),
        (FINISH, f"calibrate, score test once ({config.evaluation.bootstrap:,} resamples), page, model, card"),
    )  # fmt: skip
    lines = [
        "raymedlt classify: what would be done (nothing was run)",
        "",
        f"source     {source}",
        f"output     {storage.uri}",
        f"resources  {workers} workers; Ray from {config.ray_from:,} images on, Ray Train with several replicas",
        f"network    {model.backbone} from {model.weights or 'random weights'}; {', '.join(parts) or 'no modules'}",
        f"loss       {config.loss.name}, sampling {config.loss.sampling}",
        f"hash       {config_hash(config)}",
        "",
        *(f"{name:<10} {text}" + (f"  [{done[name]} done]" if name in done else "") for name, text in steps),
        "",
        "tables     predictions/, rejected/",
        "model      model/ (raymedlt.classifier.load)",
        "page       report.html",
    ]
    if compared:
        lines.insert(8, f"compared   with {config.synthetic.use}: {', '.join(compared)}")
    if config.ablate:
        one = ", one network each" if config.evaluation.members > 1 else ""
        lines.insert(8, f"ablation   {', '.join(variants(config))}{one}")
    return "\n".join(lines)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
