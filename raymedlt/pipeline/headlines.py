"""What a finished job's card says: a few figures of what it left. Its tables and page hold the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from raymedlt.intervals import Share
from raymedlt.pipeline.steps import Step
from raymedlt.storage import Storage

Figures = list[tuple[str, str]]
_COMPARED = {
    "evaluate-classifier": "Trained with the drawn images against without them, once each: ",
    "evaluate-generation": "The rewarded model against the fine-tuned one: ",
}
"""Of the other evaluations the run's own card says the outcome."""


@dataclass(frozen=True)
class Headline:
    """Of one step."""

    figures: Sequence[tuple[str, str]]
    """Names and values, as they are shown."""
    outcome: str = ""
    """For the page's first sentence."""


def headline(step: Step, folder: Storage) -> Headline:
    """Of the finished job in `folder`."""
    if step.name == "evaluate-enrichment":
        return _audit(json.loads(folder.read_bytes("evaluation.json"))["parts"])
    if step.stage == "enrich":
        return _enrich(folder)
    figures = json.loads(folder.read_bytes("metrics.json"))
    if step.stage == "evaluate":
        verdict = figures["verdict"]
        said = f"{_COMPARED[step.name]}{verdict[:1].lower()}{verdict[1:]}" if step.name in _COMPARED else ""
        return Headline([(name, value) for name, value in figures["headline"]], said)
    shown = {"synthesize": _synthesize, "classify": _classify, "finetune": _finetune, "align": _align}
    return shown[step.stage](figures)


def accepted_images(folder: Storage) -> int:
    """Of a finished run of jobs/synthesize.py."""
    return int(json.loads(folder.read_bytes("metrics.json"))["accepted"])


def _enrich(folder: Storage) -> Headline:
    table = folder.read_folder("enriched", ["report_id", "status", "added", "findings"])
    with_findings = table.filter(pc.not_equal(table["findings"], ""))
    reports = len(pc.unique(with_findings["report_id"]))
    enriched = len(pc.unique(table.filter(pc.equal(table["status"], "enriched"))["report_id"]))
    share = Share(enriched, reports)
    added = int(pc.sum(table["added"]).as_py() or 0)
    return Headline(
        [("Reports with findings", f"{reports:,}"), ("Enriched", _percent(share)), ("Sentences added", f"{added:,}")],
        f"{_percent(share)} of {reports:,} reports were enriched",
    )


def _synthesize(metrics: Mapping[str, Any]) -> Headline:
    share = Share(int(metrics["accepted"]), int(metrics["drawn"]))
    kid, real = (metrics["likeness"][which].get("kid") for which in ("synthetic", "real"))
    return Headline(
        [
            ("Drawn for rare findings", f"{share.whole:,}"),
            ("Accepted by the gate", f"{share.part:,} ({_percent(share)})"),
            ("KID, drawn and real", f"{_number(kid)} and {_number(real)}"),
        ],
        f"the gate accepted {share.part:,} of {share.whole:,} drawn images",
    )


def _classify(metrics: Mapping[str, Any]) -> Headline:
    groups = metrics["groups"]
    shown = [("Test images", f"{metrics['images']:,}")]
    shown.append(("Average precision", _estimate(groups["all"]["average_precision"])))
    if "tail" in groups:
        shown.append(("on the tail", _estimate(groups["tail"]["average_precision"])))
    shown.append(("Area under ROC", _estimate(groups["all"]["roc_auc"])))
    return Headline(shown)


def _finetune(metrics: Mapping[str, Any]) -> Headline:
    split = "test" if "test" in metrics["scored"] else next(iter(metrics["scored"]))
    found = metrics["scored"][split]
    prefix = "complete_" if "complete_micro_f1" in found["scores"] else ""
    scores = {name: found["scores"][f"{prefix}micro_{name}"] for name in ("f1", "precision", "recall")}
    return Headline(
        [
            ("Reports written", f"{found['reports']:,}"),
            ("F1 of findings", _estimate(scores["f1"])),
            ("precision, recall", f"{_estimate(scores['precision'])}, {_estimate(scores['recall'])}"),
        ]
    )


def _align(metrics: Mapping[str, Any]) -> Headline:
    names = list(metrics["rewards"].items())[:2]
    shown = [(name.replace("_", " "), f"{before:.3f} → {after:.3f}") for name, (before, after) in names]
    return Headline([*shown, ("Kept", f"step {metrics['best_step']} of {len(metrics['history'])}")])


def _audit(parts: Mapping[str, Any]) -> Headline:
    shown: Figures = []
    for part, key, words in (
        ("injection", "errors_refused", "Injected errors refused"),
        ("injection", "good_refused", "Good sentences refused"),
        ("recovery", "guarded", "Hidden sentences recovered"),
        ("contradiction", "additions", "Additions against labels"),
    ):
        found = parts.get(part, {}).get(key)
        if found is not None:
            inner = found.get("recovered") or found.get("of_checkable") or found
            shown.append((words, _percent(Share(inner["part"], inner["whole"]))))
    return Headline(shown)


def _percent(share: Share) -> str:
    return "–" if share.value is None else f"{100 * share.value:.1f}\u00a0%"


def _estimate(interval: Mapping[str, float | None]) -> str:
    return _number(interval["estimate"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
