"""The end of the job: page, cards, metrics, manifest; the counts that must agree; and what `--describe` says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raymedlt import __version__
from raymedlt.again import command_line
from raymedlt.config import config_hash, to_yaml
from raymedlt.cpus import use_threads
from raymedlt.errors import ConsistencyError
from raymedlt.images.arranging import Data
from raymedlt.images.examples import Examples
from raymedlt.images.stages import rejected_reasons, rejected_rows
from raymedlt.ledger import Ledger, flatten
from raymedlt.machine import Settings
from raymedlt.progress import Progress
from raymedlt.runreport.words import counted
from raymedlt.schema import TRAIN
from raymedlt.storage import FileEntry, Storage
from raymedlt.synthesis.card import data_card, generator_card
from raymedlt.synthesis.config import SynthesizeConfig
from raymedlt.synthesis.drawing import DRAW
from raymedlt.synthesis.folder import load_generator
from raymedlt.synthesis.gate import Gate
from raymedlt.synthesis.measuring import Found, class_reports, collect, likenesses, memorisation, pixels_of
from raymedlt.synthesis.page import synthesis_page
from raymedlt.synthesis.plan import Plan
from raymedlt.synthesis.plan_summary import summarise
from raymedlt.synthesis.report import Cost, GeneratorReport, HeldOutLoss, Report
from raymedlt.synthesis.sheets import PAIRS_SHOWN, REFUSED_SHOWN, accepted_sheets, nearest_pairs, refused_sheets
from raymedlt.synthesis.teaching import ADAPTERS, GENERATOR, HELD_OUT, LEARN, learning_of, paths_of
from raymedlt.synthesis.warnings import warnings_of

PAGE = "report.html"
FINISH = "finish"
CURVES = (("autoencoder", "autoencoder"), ("decoder", "decoder"), ("denoiser", "history"))


@dataclass(frozen=True)
class Outcome:
    """What the stages before left."""

    config: SynthesizeConfig
    labels: dict[str, Any]
    prepared: dict[str, dict[str, Any]]
    arranged: dict[str, Any]
    machine: Settings
    data: Data
    plan: Plan
    shards: list[str]
    accepted: dict[str, Any]
    classifier: str
    drawn_now: int
    """Images that this call drew; earlier ones were there."""
    drawers: int
    """Processes that drew them."""
    workers: int
    where: str


def finish(outcome: Outcome, gate: Gate, storage: Storage, ledger: Ledger, progress: Progress, began: float) -> str:
    """Measure, and write everything that the run leaves; the page's path or URI."""
    page = f"{storage.uri.rstrip('/')}/{PAGE}"
    if ledger.done(FINISH, "page") is not None:
        return page
    _check_counts(outcome)
    with progress.stage("measure and write the page"):
        examples = outcome.data.load(storage)
        use_threads(outcome.machine.threads)
        found = collect(storage, outcome.shards, REFUSED_SHOWN, PAIRS_SHOWN)
        report = _report(outcome, found, gate, examples, storage, ledger, progress)
        where = storage.uri.rstrip("/")
        text = synthesis_page(
            report, folder=where, command=command_line(),
            paths={name: f"{where}/{name}" for name in ("images", "plan", "rejected")},
        )  # fmt: skip
        timings = {"work": dict(progress.timings), "seconds_before_the_page_was_written": time.monotonic() - began}
        entries = [
            storage.write_bytes(PAGE, text.encode()),
            storage.write_bytes("README.md", data_card(report).encode()),
            storage.write_bytes("config.yaml", to_yaml(outcome.config).encode()),
            storage.write_bytes("metrics.json", _json(_metrics(report))),
            storage.write_bytes("timings.json", _json(timings)),
            *_cards(report, outcome.config, storage),
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


def _check_counts(outcome: Outcome) -> None:
    """Rows planned = images drawn = accepted + refused."""
    planned, drawn = len(outcome.plan), outcome.accepted["drawn"]
    if planned != drawn:
        raise ConsistencyError(f"{planned} rows planned and {drawn} images judged", "equal numbers", "--restart")


def _report(
    outcome: Outcome, found: Found, gate: Gate, examples: Examples, storage: Storage, ledger: Ledger, progress: Progress
) -> Report:
    config, plan = outcome.config, outcome.plan
    every, each = likenesses(found, examples, seed=config.seed, device="cpu")
    train = examples.rows(TRAIN)
    learnt = ledger.done(LEARN, "generator") or {}
    tables = (storage.read_table(f"plan/{shard}.parquet") for shard in outcome.shards)
    seconds = dict(progress.timings)
    closest = sorted(found.closest, reverse=True)
    nearest = train[np.array([each[3] for each in closest], np.int64)]
    size = config.images.size
    empty = np.zeros((0, size, size), np.uint8)
    return Report(
        data=_data_words(config),
        phantom=config.images.path is None,
        plan=summarise(plan.real, tables),
        classes=class_reports(found, plan, gate, examples, each, outcome.accepted["priors"]),
        generator=_generator(outcome, learnt),
        likeness=every,
        memorisation=memorisation(found, gate, examples, config.seed),
        classifier="trained in this run, on its real training images" if config.classifier.path is None
        else f"of {config.classifier.path}",
        gate=[(name.replace("_", " "), str(value)) for name, value in asdict(config.gate).items()],
        gate_precision=config.gate.precision,
        curves={name: learnt[key] for name, key in CURVES if key in learnt},
        accepted_sheets=accepted_sheets(
            np.stack(found.images) if found.images else empty, found.targets, dict(found.accepted)
        ),
        refused_sheets=refused_sheets(
            np.stack(found.bad_images) if found.bad_images else empty, found.bad_targets, found.bad_reasons,
            _totals(found),
        ),
        pairs=nearest_pairs(
            np.stack([pixels_of(each[2]) for each in closest]), examples.pixels.take(nearest),
            [each[4] for each in closest], [each[5] for each in closest], [-each[0] for each in closest],
        ) if closest else (),
        cost=Cost(
            seconds=seconds,
            startup_seconds=seconds.pop("start Ray", 0.0),
            images_per_second=outcome.drawn_now / seconds[DRAW] if seconds.get(DRAW) else None,
            gpu_hours=seconds.get(DRAW, 0.0) * outcome.drawers / 3600 if outcome.machine.device == "cuda" else None,
            where=f"{outcome.workers} workers, {outcome.where}; {outcome.machine.device} in "
            f"{outcome.machine.precision}, {counted(config.machine.threads, 'thread')} each",
        ),
        rejected=rejected_reasons(outcome.labels, outcome.prepared),
        rejected_rows=rejected_rows(storage),
        seed=config.seed,
        config=flatten(asdict(config)),
        defaults=flatten(asdict(SynthesizeConfig())),
        config_hash=config_hash(config),
        versions=versions(),
    )  # fmt: skip


def _totals(found: Found) -> dict[str, int]:
    totals: dict[str, int] = {}
    for counts in found.refused.values():
        for reason, count in counts.items():
            totals[reason] = totals.get(reason, 0) + count
    return totals


def _data_words(config: SynthesizeConfig) -> str:
    if config.images.path is None:
        return f"phantom images with label sets of {config.phantom.prevalence}"
    return f"images of the folder {config.images.path.rstrip('/').rpartition('/')[2]}"


def _generator(outcome: Outcome, learnt: Mapping[str, Any]) -> GeneratorReport:
    config = outcome.config
    path, adapters = paths_of(config)
    loaded = load_generator(path, adapters=adapters)
    parts = (loaded.unet, loaded.vae, loaded.text_encoder)
    parameters = sum(each.numel() for part in parts for each in part.parameters())
    images = learnt.get("images")
    method = learning_of(config, outcome.data.classes).method if learnt else ""
    words = (
        f"A small latent diffusion model, trained from scratch on {images:,} real images"
        if config.generator.path is None
        else "A latent diffusion model"
        + (f" with {method.replace('_', ' ')} learnt on {images:,} real images" if learnt else "")
    )
    before, after = learnt.get("held_out_before"), learnt.get("held_out_after")
    held_out = None
    if before is not None and after is not None:
        count = min(HELD_OUT, outcome.arranged["images"]["validation"])
        held_out = HeldOutLoss(images=count, before=before, after=after)
    return GeneratorReport(
        words=words, method=method, checkpoint_hash=outcome.plan.checkpoint_hash, size=config.images.size,
        base=config.generator.path or "", parameters=parameters, images=images, held_out=held_out,
    )  # fmt: skip


def _cards(report: Report, config: SynthesizeConfig, storage: Storage) -> list[FileEntry]:
    """The card of what was trained here, if anything was."""
    if config.generator.adapters is not None:
        return []
    folder = ADAPTERS if report.generator.method != "full" else GENERATOR
    base = report.generator.base
    on_hub = "://" not in base and not os.path.isdir(base)
    card = generator_card(report, folder=folder, adapters=folder == ADAPTERS, base_model=base if on_hub else "")
    return [storage.write_bytes(f"{folder}/README.md", card.encode())]


def _metrics(report: Report) -> dict[str, Any]:
    def figures(likeness: Any) -> dict[str, Any]:
        return {
            "synthetic": asdict(likeness.synthetic), "real": asdict(likeness.real), "compared": likeness.compared,
            "why": likeness.why,
        }  # fmt: skip

    own = report.memorisation
    return {
        "planned": report.planned,
        "drawn": report.acceptance.whole,
        "accepted": report.acceptance.part,
        "reasons": report.reasons(),
        "likeness": figures(report.likeness),
        "classes": {
            each.name: {
                "real": each.real, "planned": each.planned, "drawn": each.drawn, "accepted": each.accepted,
                "refused": dict(each.refused), "threshold": each.threshold, "validation": each.validation,
                "prior": each.prior, "precision": each.gate_precision,
                "likeness": figures(each.likeness),
            }
            for each in report.classes
        },
        "memorisation": None if own is None else {
            "threshold": own.threshold, "caught": list(own.caught), "false_refusals": list(own.false_refusals),
        },
        "plan": report.plan.to_json(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    from importlib import metadata

    names = ("torch", "torchvision", "diffusers", "transformers", "peft", "timm", "numpy", "scipy", "pyarrow", "ray")
    return {"raymedlt": __version__} | {name: metadata.version(name) for name in names}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
