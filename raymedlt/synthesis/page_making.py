"""The page's sections on how the images were made and what to do with them: plan, gate, training, cost, use."""

from __future__ import annotations

from collections.abc import Mapping

from raymedlt.runreport.about import time_bars
from raymedlt.runreport.page import Block, Code, Column, KeyValues, Paragraph, Table
from raymedlt.runreport.words import capital
from raymedlt.synthesis.figures import training_curve
from raymedlt.synthesis.report import Report
from raymedlt.synthesis.report_words import UNDEFINED, number

GATE = {
    "precision": ("Wanted precision", "of a class's threshold"),
    "prior": ("Drawn right at most", "share of the images that is taken to show the class they are for; see below"),
    "missed": ("Missed as companions", "of the real images of a class"),
    "stray": ("Refused for showing more", "of real images"),
    "least positives": ("Validation images needed", "of a class"),
    "false copies": ("Taken for copies", "of held-out real images"),
    "least caught": ("Planted copies to catch", "of all, or there is no gate"),
    "fingerprint": ("Length of a fingerprint", "numbers"),
    "false outliers": ("Taken for unlike", "of held-out real images"),
    "neighbours": ("Neighbour", "that the distance to real images is taken to"),
    "features": ("Features of that distance", ""),
}
"""The gate's settings -> name and remark behind the value."""
NO_THRESHOLD = "Not defined: too few real validation images show the class, so every image for it is refused."


def plan_blocks(report: Report, paths: Mapping[str, str]) -> list[Block]:
    """What was planned, and how far it is from the real label sets."""
    plan = report.plan
    shift = f"{100 * plan.shift:.1f} points" if plan.shift_pair[0] else UNDEFINED
    pair = " with ".join(reversed(plan.shift_pair)) if plan.shift_pair[0] else "no class has enough rows"
    return [
        KeyValues(
            [
                ("Rows", f"{plan.rows:,}"),
                ("Label sets", f"{plan.label_sets:,}", f"{plan.new_sets:,} of them on no real training image"),
                ("Rows with such a new set", f"{plan.new_rows:,}"),
                ("From smoothed co-occurrence", f"{plan.smoothed:,}", "the others have a real image's label set"),
                ("Largest shift of a co-occurrence", shift, pair),
            ]
        ),
        Table(
            caption="Classes in the plan, the rarest first. An image counts for every class of its label set.",
            columns=[
                Column(name="Class"),
                Column(name="Real", numeric=True, hint="Real training images"),
                Column(name="Rows for it", numeric=True),
                Column(name="Rows with it", numeric=True, hint="Whichever class they are for"),
                Column(name="Real and planned", numeric=True, hint="If the gate accepts all"),
                Column(name="Label sets", numeric=True, hint="Distinct ones of its rows"),
                Column(name="New", numeric=True, hint="Of these, on no real training image"),
            ],
            rows=[
                (each.name, each.real, each.rows, each.planned, each.total, each.label_sets, each.new_sets)
                for each in plan.classes
            ],
        ),
        *([Paragraph(f"Each row with its prompt and seed: {paths['plan']}")] if "plan" in paths else []),
    ]


def gate_blocks(report: Report) -> list[Block]:
    """Settings and thresholds."""
    return [
        KeyValues([("Classifier", report.classifier, ""), *(_setting(name, value) for name, value in report.gate)]),
        Table(
            caption="Thresholds of the classifier's probability, from real validation images. Drawn right: the share of"
            " the drawn images that is taken to show the class, estimated from their probabilities, at most the gate's"
            " prior. Precision is that at this share; recall is the share of real images that reach the threshold.",
            columns=[
                Column(name="Class"),
                Column(name="Validation images", numeric=True, hint="Real ones that show it"),
                Column(name="Drawn right", tight=True),
                Column(name="Threshold", tight=True),
                Column(name="Precision", tight=True),
                Column(name="Recall", tight=True),
            ],
            rows=[
                (
                    each.name,
                    each.validation,
                    *(
                        UNDEFINED if value is None else f"{value:.3f}"
                        for value in (each.prior, each.threshold, each.gate_precision, each.gate_recall)
                    ),
                )
                for each in report.classes
            ],
        ),
        *([Paragraph(NO_THRESHOLD)] if any(each.threshold is None for each in report.classes) else []),
    ]


def _setting(name: str, value: str) -> tuple[str, str, str]:
    words, remark = GATE.get(name, (capital(name), ""))
    return words, value, remark


def training_blocks(report: Report) -> list[Block]:
    """What was learnt in this run."""
    own = report.generator
    blocks: list[Block] = [training_curve(name, entries) for name, entries in report.curves.items() if entries]
    if not blocks:
        blocks.append(Paragraph("Nothing was trained in this run; the generator was used as it is."))
    if (loss := own.held_out) is not None:
        blocks.append(
            KeyValues(
                [
                    ("Before", f"{loss.before:.5g}"),
                    ("After", f"{loss.after:.5g}"),
                    ("Change", f"{loss.after - loss.before:+.4g}".replace("-", "−"), "below 0: better"),
                ],
                title=f"Denoising loss on {loss.images:,} held-out real images, with the same noise",
            )
        )
    return blocks


def cost_blocks(report: Report) -> list[Block]:
    """Seconds by stage, and what drawing took."""
    cost = report.cost
    speed = "not measured: the images were there" if cost.images_per_second is None else number(cost.images_per_second)
    return [
        time_bars(cost.seconds, cost.startup_seconds),
        KeyValues(
            [
                ("Images drawn per second", speed, "by all workers together, the loading of the generator included"),
                ("GPU hours", "none: on CPU only" if cost.gpu_hours is None else f"{cost.gpu_hours:.2f}"),
                *([("Machine", cost.where)] if cost.where else []),
            ]
        ),
    ]


def use_blocks(folder: str) -> list[Block]:
    """How to train with the images."""
    place = folder or "FOLDER"
    return [
        Paragraph(
            "Train the classifier with the accepted images beside the real ones. They join the training images alone,"
            " with half the weight of a real one after the warm-up (the first command), or come in a stage of their own"
            " before them (the second). Compare with a run that has none, over several seeds, before you believe in a"
            " gain."
        ),
        Code(
            f"python jobs/classify.py --synthetic.path {place}\n"
            f"python jobs/classify.py --synthetic.path {place} --synthetic.use pretrain"
        ),
        Paragraph("Or read the table; refused images are in it too, with their reasons:"),
        Code(
            f'images = datasets.load_dataset({place!r}, "images", split="train")\n'
            'images = images.filter(lambda row: row["accepted"])'
        ),
    ]


def run_blocks(report: Report) -> list[Block]:
    """Generator and versions."""
    own = report.generator
    return [
        KeyValues(
            [
                ("Generator", own.words),
                *([("Learnt on top of", own.base)] if own.base else []),
                ("Method", own.method.replace("_", " ") or "nothing was learnt"),
                ("Parameters", _count(own.parameters)),
                ("Training images", _count(own.images)),
                ("Size", f"{own.size} x {own.size} pixels"),
                ("Generator hash", own.checkpoint_hash),
                ("Seed", str(report.seed)),
                *report.versions.items(),
            ]
        )
    ]


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"
