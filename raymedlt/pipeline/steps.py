"""Which jobs the pipeline runs, in which folders, with which configuration, and whose results each one needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raymedlt.pipeline.config import PipelineConfig, Stage
from raymedlt.storage import below as in_folder

REAL_ONLY = "classify-real"
"""The classifier without drawn images, which the one with them is held against."""


@dataclass(frozen=True)
class Step:
    """One run of one job."""

    name: str
    """Of its folder below the output."""
    stage: Stage
    """The stage it belongs to, and the script below jobs/."""
    config: Any
    """Resolved, as the job takes it."""
    needs: tuple[str, ...]
    """Steps whose results it reads."""
    title: str
    """On the page."""
    does: str
    """In a few words, for people."""


def steps_of(config: PipelineConfig) -> list[Step]:
    """All steps in their order, also those of stages that are not asked for."""

    def at(name: str) -> str:
        return in_folder(config.output, name)

    shared: dict[str, Any] = {"seed": config.seed, "workers": config.workers}
    pictures: dict[str, Any] = {
        "images": config.images, "phantom": config.phantom, "labels": config.labels, "split": config.split
    }  # fmt: skip
    classify = replace(config.classify, **pictures, **shared)
    with_drawn = replace(classify.synthetic, path=at("synthesize"))
    finetune: dict[str, Any] = {"images": config.images, "split": config.split, **shared}
    if config.images.path is not None:
        finetune["text"] = replace(config.finetune.text, enriched=at("enrich"))
    teaches = "teaches a vision-language model to write reports"
    if config.images.path is None:
        teaches += " (the phantom's, which the job enriches itself)"
    evaluate = replace(config.evaluate, seed=config.seed)
    return [
        Step(
            "enrich", "enrich",
            replace(config.enrich, reports=config.reports, output=at("enrich"), **shared), (),
            "Enriched reports", "adds to reports the normal statements that they leave out",
        ),
        Step(
            "synthesize", "synthesize",
            replace(config.synthesize, output=at("synthesize"), **pictures, **shared), (),
            "Drawn images", "draws X-rays of rare findings, and keeps what passes a gate",
        ),
        Step(
            REAL_ONLY, "classify",
            replace(classify, output=at(REAL_ONLY)), (),
            "Classifier, real images alone", "trains a classifier of the real images alone",
        ),
        Step(
            "classify", "classify",
            replace(classify, synthetic=with_drawn, output=at("classify")), ("synthesize",),
            "Classifier, drawn images too", "trains the same classifier with the drawn images beside them",
        ),
        Step(
            "finetune", "finetune",
            replace(config.finetune, output=at("finetune"), **finetune),
            () if config.images.path is None else ("enrich",),
            "Fine-tuned model", teaches,
        ),
        Step(
            "align", "align",
            replace(config.align, finetuned=at("finetune"), output=at("align"), seed=config.seed), ("finetune",),
            "Aligned model", "rewards it for what its reports say",
        ),
        Step(
            "evaluate-enrichment", "evaluate",
            replace(evaluate, what="enrichment", run=at("enrich"), output=at("evaluate-enrichment")), ("enrich",),
            "Audit of the additions", "audits the additions",
        ),
        Step(
            "evaluate-synthesis", "evaluate",
            replace(evaluate, what="synthesis", run=at("synthesize"), output=at("evaluate-synthesis")), ("synthesize",),
            "Drawn images, kept and refused", "looks at what was drawn, kept and refused",
        ),
        Step(
            "evaluate-classifier", "evaluate",
            replace(
                evaluate, what="classifier", run=at("classify"), against=at(REAL_ONLY),
                output=at("evaluate-classifier"),
            ),
            ("classify", REAL_ONLY),
            "Worth of the drawn images", "holds the classifier with drawn images against the one without",
        ),
        Step(
            "evaluate-generation", "evaluate",
            replace(
                evaluate, what="generation", run=at("align"), against=at("finetune"), output=at("evaluate-generation")
            ),
            ("align", "finetune"),
            "Worth of the rewards", "holds the rewarded model against the fine-tuned one",
        ),
    ]  # fmt: skip


def below(name: str, steps: Sequence[Step]) -> list[str]:
    """The steps that can't be done without `name`, and those that need these."""
    found = [name]
    for step in steps:
        if set(step.needs) & set(found) and step.name not in found:
            found.append(step.name)
    return found[1:]
