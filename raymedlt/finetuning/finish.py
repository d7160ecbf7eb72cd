"""The end of the job: scores, table, page, cards, manifest; and the counts that must agree."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.config import config_hash, to_yaml
from raymedlt.errors import ConsistencyError
from raymedlt.evaluation.answers import split_answer
from raymedlt.evaluation.scores import evaluate, generations_table
from raymedlt.finetuning.arranging import read_studies
from raymedlt.finetuning.card import data_card, model_card
from raymedlt.finetuning.config import LITE0, SMALL, SMOLLM2, FinetuneConfig, data_of
from raymedlt.finetuning.examples import SHOWN, Example, chosen
from raymedlt.finetuning.export import MODEL
from raymedlt.finetuning.feed import Blind
from raymedlt.finetuning.generation import WRITE, written
from raymedlt.finetuning.page import finetune_page
from raymedlt.finetuning.report import Cost, DataReport, ModelReport, Report, Scored, TrainingReport
from raymedlt.finetuning.report_runs import ReportRun
from raymedlt.finetuning.studies import Studies
from raymedlt.finetuning.warnings import warnings_of
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Pixels
from raymedlt.images.stages import data_parts, image_sizes, rejected_rows
from raymedlt.ledger import Ledger, flatten
from raymedlt.machine import Settings, driver_device
from raymedlt.progress import Progress
from raymedlt.runreport.words import counted
from raymedlt.storage import FileEntry, Storage, below, content_hash, folder_and_name, sha256_of

PAGE = "report.html"
FINISH = "finish"


@dataclass(frozen=True)
class Outcome:
    """What the stages before left."""

    config: FinetuneConfig
    rejected: Mapping[str, int]
    """Rows that the stages of the images rejected, by reason."""
    studies: Mapping[str, Any]
    """Summary of the studies (arranging.arrange_studies)."""
    seen: Mapping[str, Any]
    settings: Settings
    shards: Mapping[str, int]
    """Of written reports, and how many each holds."""
    training: Mapping[str, Any]
    """What the ledger keeps of it."""
    export: Mapping[str, Any]
    workers: int
    where: str


def data_hash(config: FinetuneConfig, reports: ReportRun | None) -> str:
    """Names the input: reports, images, and the weights that the model starts from."""
    parts = []
    if reports is None:
        parts += list(data_parts(data_of(config), config.output))
    else:
        parts += [
            reports.content,
            *(f"{name}:{size}" for name, size in image_sizes(str(config.images.path), config.output)),
        ]
    own = config.model
    language = None if own.language in (SMALL, SMOLLM2) else own.language
    for name in (own.path, None if own.path else language, own.vision_weights if own.vision_weights != LITE0 else None):
        parts += list(_weights(name))
    return content_hash(*parts)


def _weights(name: str | None) -> Iterator[str]:
    """A given model's name; of a file of weights its content, of a folder names and bytes of the files (gigabytes)."""
    if name is None:
        return
    yield name
    if name.partition("?")[0].endswith(".safetensors"):
        storage, file = folder_and_name(name)
        yield sha256_of(storage.read_bytes(file)) if storage.exists(file) else ""
    elif "://" in name or os.path.isdir(name):
        yield from (f"{each}:{size}" for each, size in Storage.of(name).sizes())


def finish(outcome: Outcome, data: Data, storage: Storage, ledger: Ledger, progress: Progress, began: float) -> str:
    """Score, and write everything that the run leaves; the page's path or URI."""
    page = f"{storage.uri.rstrip('/')}/{PAGE}"
    if ledger.done(FINISH, "page") is not None:
        return page
    with progress.stage("score and write the page"):
        studies, texts = read_studies(storage), written(storage, dict(outcome.shards))
        scored, entries = _scored(outcome, studies, texts, storage)
        report = _report(outcome, scored, studies, texts, _pixels(outcome, data, storage), storage, progress)
        where = storage.uri.rstrip("/")
        text = finetune_page(
            report, folder=where, command=command_line(),
            paths={name: f"{where}/{name}" for name in ("generations", "rejected")},
        )  # fmt: skip
        timings = {"work": dict(progress.timings), "seconds_before_the_page_was_written": time.monotonic() - began}
        base = outcome.config.model.path or ""
        on_hub = bool(base) and "://" not in base and not os.path.isdir(base)
        entries += [
            storage.write_bytes(PAGE, text.encode()),
            storage.write_bytes("README.md", data_card(report).encode()),
            storage.write_bytes(
                f"{MODEL}/README.md", model_card(report, folder=where, base_model=base if on_hub else "").encode()
            ),
            storage.write_bytes("config.yaml", to_yaml(outcome.config).encode()),
            storage.write_bytes("metrics.json", _json(_metrics(report))),
            storage.write_bytes("timings.json", _json(timings)),
        ]
        manifest = {
            "configuration": config_hash(outcome.config),
            "versions": versions(),
            "files": [entry.to_json() for entry in [*ledger.manifest(), *entries]],
        }
        entries.append(storage.write_bytes("manifest.json", _json(manifest)))
        ledger.commit(FINISH, "page", entries, {})
    for warning in warnings_of(report):
        progress.say(f"warning: {warning}")
    return page


def _scored(
    outcome: Outcome, studies: Studies, texts: pa.Table, storage: Storage
) -> tuple[list[Scored], list[FileEntry]]:
    """What was written, scored split by split; and the table `generations`."""
    config = outcome.config
    place = {name: row for row, name in enumerate(studies.report_ids.tolist())}
    rows = np.array([place[name] for name in texts["report_id"].to_pylist()], np.int64)
    clusters = _clusters(config)
    found, entries, count = [], [], 0
    for split in dict.fromkeys(config.generation.splits):
        here = np.flatnonzero(studies.splits[rows] == split)
        if not len(here):
            continue
        own, said = rows[here], texts.take(pa.array(here))
        whole = said["completion"].to_pylist()
        completions = [split_answer(text)[0] for text in whole]
        references = studies.reference_findings[own].tolist()
        complete = studies.complete_findings[own].tolist()
        evaluation = evaluate(
            completions, references, studies.patient_ids[own].tolist(),
            complete=complete if all(complete) else None, language=studies.languages[own].tolist(), clusters=clusters,
            scorers=config.scoring, device=driver_device(outcome.settings),
        )  # fmt: skip
        found.append(
            Scored.of(
                evaluation, split=split, completions=completions, references=references,
                cut=int(pc.sum(pc.invert(said["finished"])).as_py() or 0), resamples=config.scoring.bootstrap,
                seed=config.seed,
            )
        )  # fmt: skip
        columns = {
            "report_id": said["report_id"], "image_id": said["image_id"], "patient_id": studies.patient_ids[own],
            "split": [split] * len(own), "reference": references, "completion": whole,
        }  # fmt: skip
        entries.append(
            storage.write_table(f"generations/{split}.parquet", generations_table(columns, evaluation.per_report))
        )
        count += len(own)
    planned = sum(outcome.shards.values())
    if count != planned:
        raise ConsistencyError(f"{count} reports scored of {planned} written", "equal numbers", "--restart")
    return found, entries


def _clusters(config: FinetuneConfig) -> Any:
    """The cluster model of findings, if there is one."""
    folder = config.scoring.clusters
    if folder is None and config.text.enriched is not None:
        folder = below(config.text.enriched, "model/findings")
    if folder is None:
        return None
    from raymedlt.clustering import ClusterModel

    return ClusterModel.load(folder)


def _pixels(outcome: Outcome, data: Data, storage: Storage) -> Pixels:
    return Blind(data.size) if outcome.config.blind else data.load(storage).pixels


def _report(
    outcome: Outcome,
    scored: list[Scored],
    studies: Studies,
    texts: pa.Table,
    pixels: Pixels,
    storage: Storage,
    progress: Progress,
) -> Report:
    config, own = outcome.config, outcome.config.training
    seconds = dict(progress.timings)
    startup = seconds.pop("start Ray", 0.0)
    history = outcome.training.get("history", [])
    return Report(
        data=DataReport.of(
            outcome.studies, words=_data_words(config), phantom=config.images.path is None, use=config.text.use,
            form=config.text.format,
        ),
        model=ModelReport(
            **_parts(config), base=config.model.path or "", method=config.model.settled_method,
            parameters=int(outcome.export["parameters"]), learning=int(outcome.export["learning"]),
            image_size=config.images.size, prompt=config.text.prompt,
        ),
        training=TrainingReport(
            history=history, epochs=own.epochs, seeing=outcome.seen.get("history", []),
            sees_first=config.sees_first, zero=own.zero,
            offload=own.offload, device=outcome.settings.device, precision=outcome.settings.precision,
            batch=own.batch, keep=config.keep,
        ),
        scored=scored,
        examples=_examples(outcome, scored, studies, texts, pixels),
        blind=config.blind,
        cost=Cost(
            seconds=seconds,
            startup_seconds=startup,
            reports_per_second=texts.num_rows / seconds[WRITE] if seconds.get(WRITE) else None,
            gpu_hours=seconds.get("train", 0.0) * own.replicas / 3600 if outcome.settings.device == "cuda" else None,
            where=f"{counted(outcome.workers, 'worker')}, {outcome.where}; {outcome.settings.device} in "
            f"{outcome.settings.precision}, {counted(own.replicas, 'replica')} x "
            f"{counted(outcome.settings.threads, 'thread')}",
        ),
        rejected=_add(outcome.rejected, outcome.studies["rejected"]),
        rejected_rows=rejected_rows(storage),
        seed=config.seed,
        config=flatten(asdict(config)),
        defaults=flatten(asdict(FinetuneConfig())),
        config_hash=config_hash(config),
        versions=versions(),
    )  # fmt: skip


def _examples(
    outcome: Outcome, scored: list[Scored], studies: Studies, texts: pa.Table, pixels: Pixels
) -> list[Example]:
    """Of the test split if there is one, else of the first that was scored."""
    if not scored:
        return []
    split = next((each.split for each in scored if each.split == "test"), scored[0].split)
    place = {name: row for row, name in enumerate(studies.report_ids.tolist())}
    said = {row["report_id"]: row for row in texts.to_pylist() if studies.splits[place[row["report_id"]]] == split}
    ids = sorted(said)
    rows = np.array([place[name] for name in ids], np.int64)
    complete = studies.complete_findings[rows].tolist()
    references = studies.reference_findings[rows].tolist()
    shown = chosen(
        ids, complete if all(complete) else references, language=str(studies.languages[rows[0]]), most=SHOWN,
        seed=outcome.config.seed,
    )  # fmt: skip
    images = pixels.take(studies.image_rows[rows[shown]])
    return [
        Example(
            image_id=str(studies.image_ids[rows[number]]), image_SS=images[at], reference=references[number],
            complete=complete[number], completion=split_answer(said[ids[number]]["completion"])[0],
            language=str(studies.languages[rows[number]]), cut=not said[ids[number]]["finished"],
        )
        for at, number in enumerate(shown)
    ]  # fmt: skip


def _add(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in sorted({*first, *second})}


def _data_words(config: FinetuneConfig) -> str:
    if config.images.path is None:
        return f"phantom images with label sets of {config.phantom.prevalence}, and their reports"
    return f"images of the folder {config.images.path.rstrip('/').rpartition('/')[2]}, and their reports"


def _parts(config: FinetuneConfig) -> dict[str, str]:
    own = config.model
    if own.path is not None:
        return {"vision": "", "connector": "", "language": ""}
    start = "with given weights" if own.vision_weights or own.vision == LITE0 else "from scratch"
    connector = "linear connector" if own.connector == "linear" else f"query decoder with {own.queries} queries"
    small = f"a causal language model from scratch ({own.small_layers} layers of {own.small_width})"
    names = {SMALL: small, SMOLLM2: "SmolLM2-135M-Instruct"}
    return {
        "vision": f"{own.vision} {start}", "connector": connector, "language": names.get(own.language, own.language),
    }  # fmt: skip


def _metrics(report: Report) -> dict[str, Any]:
    return {
        "scored": {
            each.split: {
                "reports": each.reports,
                "patients": each.patients,
                "scores": {name: _interval(interval) for name, interval in each.scores.items()},
                "findings": {one.name: [one.hits, one.false, one.missed] for one in each.truth},
                "cut": each.cut,
                "distinct": each.distinct,
                "absent": list(each.absent),
            }
            for each in report.scored
        },
        "history": list(report.training.history),
        "seeing": list(report.training.seeing),
        "parameters": report.model.parameters,
        "learning": report.model.learning,
    }


def _interval(interval: Any) -> dict[str, float | None]:
    values = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    from importlib import metadata

    found = {"raymedlt": __version__}
    for name in (
        "torch", "torchvision", "timm", "transformers", "tokenizers", "peft", "deepspeed", "numpy", "pyarrow", "ray",
        "sacrebleu", "trl", "accelerate",
    ):  # fmt: skip
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
