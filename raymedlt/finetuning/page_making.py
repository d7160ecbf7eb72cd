"""The page's sections on how the model was made and how to use it: training, data, model, use, cost."""

from __future__ import annotations

from raymedlt.finetuning.config import TextFormat, TextUse
from raymedlt.finetuning.figures import loss_curves, seeing_curves
from raymedlt.finetuning.report import Report, TrainingReport
from raymedlt.runreport.about import time_bars
from raymedlt.runreport.page import Block, Code, Column, KeyValues, Paragraph, Table
from raymedlt.runreport.words import counted
from raymedlt.schema import SPLITS

USES: dict[TextUse, str] = {
    "original": "the original reports",
    "enriched": "reports with the additions of jobs/enrich.py",
    "random": "the control of enrichment: reports with as many additions, drawn at random",
    "paraphrase": "the control of enrichment: reports in other words, without additions",
    "complete": "the phantom's texts without omissions",
}
FORMS: dict[TextFormat, str] = {
    "findings": "the findings",
    "think_answer": "<think> findings </think><answer> impression </answer>",
}
METHODS = {
    "full": "all weights of the language model learn",
    "lora": "low-rank matrices beside the language model's weights learn (LoRA); merged when it was saved",
}


def training_blocks(report: Report) -> list[Block]:
    """Curves, and how it was run."""
    own = report.training
    blocks: list[Block] = [loss_curves(own) if own.history else Paragraph("Nothing was learnt in this run.")]
    if own.seeing:
        blocks.append(seeing_curves(own.seeing))
    kept = own.kept
    if kept is None:
        return blocks
    ended = (
        "the last epoch was the best: it might have learnt more"
        if own.still_falling
        else "stopped early, since the validation loss fell no more" if len(own.history) < own.epochs else ""
    )  # fmt: skip
    return [
        *blocks,
        KeyValues(
            [
                ("Epochs", f"{len(own.history)} of at most {own.epochs}", ended),
                ("Kept", f"epoch {int(kept['epoch']) + 1}", f"validation loss {kept['validation_loss']:.4f} per token"),
                ("Batch", counted(own.batch, "study").replace("studys", "studies")),
                ("Training processes", replicas_words(own)),
                ("Went on from a checkpoint", times(own.restarts)),
                ("Sharded", zero_words(own)),
                ("Arithmetic", f"{own.precision} on {own.device}"),
            ]
        ),
    ]


def replicas_words(training: TrainingReport) -> str:
    """ "2", or "2, then 1, then 2 (machines came and went)"."""
    told = ", then ".join(map(str, training.replicas))
    return told if len(training.replicas) < 2 else f"{told} (machines came and went)"


def zero_words(training: TrainingReport) -> str:
    """What every process holds a part of only."""
    parts = ("nothing", "optimizer", "optimizer and gradients", "optimizer, gradients and weights")
    if not training.zero:
        return "nothing: every process holds the whole model"
    return f"{parts[training.zero]} (DeepSpeed, ZeRO {training.zero})" + (
        ", in the memory of the CPU" if training.offload else ""
    )


def times(count: int) -> str:
    """ "never", "once", "3 times"."""
    return {0: "never", 1: "once"}.get(count, f"{count:,} times")


def data_blocks(report: Report) -> list[Block]:
    """Studies of each split, and what the training texts are."""
    own = report.data
    train = own.studies.get("train", 0)
    return [
        Table(
            columns=[Column(name="Split"), Column(name="Studies", numeric=True), Column(name="Patients", numeric=True)],
            rows=[(split, own.studies[split], own.patients.get(split, 0)) for split in SPLITS if split in own.studies],
        ),
        KeyValues(
            [
                ("Images and reports", own.words),
                ("Training texts", USES[own.use], f"{own.taught:,} of {train:,} studies teach other than their own"),
                ("Texts in all", f"{own.variants:,}", "each epoch draws one of a study's"),
                ("Length", f"{own.tokens['median']:,} tokens", f"median; the longest has {own.tokens['largest']:,}"),
                ("Form", FORMS[own.form]),
                ("Prompt", report.model.prompt),
                ("Validation and test", "the original reports, always", "split by patient"),
            ]
        ),
    ]


def model_blocks(report: Report) -> list[Block]:
    """Parts and size."""
    own = report.model
    parts = [("Vision encoder", own.vision), ("Connector", own.connector), ("Language model", own.language)]
    share = f"{100 * own.learning / own.parameters:.2g}\u00a0% of all" if own.parameters else ""
    return [
        KeyValues(
            [
                *([("Started from", own.base)] if own.base else []),
                *((name, words) for name, words in parts if words),
                ("Method", own.method, METHODS.get(own.method, "")),
                ("Parameters", f"{own.parameters:,}"),
                ("Learning", f"{own.learning:,}", share),
                ("Image", f"{own.image_size} x {own.image_size} pixels"),
                ("Seed", str(report.seed)),
                *report.versions.items(),
            ]
        )
    ]


def use_blocks(report: Report, folder: str) -> list[Block]:
    """How to write reports with the model."""
    place = folder or "FOLDER"
    return [
        Paragraph(
            "The folder holds safetensors and what transformers needs beside them. Images may be paths, bytes, PIL"
            " images or arrays. What comes out is a draft for research: nobody may be treated by it."
        ),
        Code(
            "from raymedlt.finetuning import load\n\n"
            f'texts = load("{place}").generate(["chest.png"])'
        ),
    ]  # fmt: skip


def cost_blocks(report: Report) -> list[Block]:
    """Seconds by stage and by epoch, and what writing took."""
    cost, history = report.cost, report.training.history
    epoch = [entry["seconds"] for entry in history if "seconds" in entry]
    speed = (
        "not measured: the reports were there" if cost.reports_per_second is None else f"{cost.reports_per_second:,.3g}"
    )
    return [
        time_bars(cost.seconds, cost.startup_seconds),
        KeyValues(
            [
                *([("Seconds per epoch", f"{sum(epoch) / len(epoch):,.1f}")] if epoch else []),
                ("Reports written per second", speed),
                ("GPU hours", "none: on CPU only" if cost.gpu_hours is None else f"{cost.gpu_hours:.2f}"),
                *([("Machine", cost.where)] if cost.where else []),
            ]
        ),
    ]
