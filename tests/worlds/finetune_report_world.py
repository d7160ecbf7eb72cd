"""A run of jobs/finetune.py without a training: the phantom's texts, and completions that leave out, add and swap."""

from __future__ import annotations

from functools import lru_cache

from raymedlt.config import flatten
from raymedlt.evaluation.scores import Evaluation, evaluate
from raymedlt.finetuning.config import FinetuneConfig, TextConfig
from raymedlt.finetuning.examples import Example, chosen
from raymedlt.finetuning.report import Cost, DataReport, ModelReport, Report, Scored, TrainingReport
from raymedlt.images.config import DataConfig, PhantomConfig
from raymedlt.images.phantom import draw
from raymedlt.images.phantom_cohort import findings_of
from raymedlt.images.preparing import phantom_cohort
from raymedlt.reports.sentences import split_sentences
from raymedlt.schema import TEST
from raymedlt.seeds import generator

DATA = DataConfig(phantom=PhantomConfig(images=160, test_images=320, test_positives=0))
ADDED = ("There is mild cardiomegaly.", "Calcified granuloma in the left lung.", "Small left pleural effusion.")
SUMMARY = {
    "reports": 480, "studies": {"train": 144, "validation": 16, "test": 320},
    "patients": {"train": 96, "validation": 11, "test": 211}, "taught": 131, "variants": 288,
    "tokens": {"median": 38, "largest": 97}, "rejected": {"no findings": 2}, "learnt_from_held_out": 0,
}  # fmt: skip


def written(image_id: str, complete: str) -> str:
    """The complete text as a middling model would put it."""
    rng = generator(0, "completion", image_id)
    kept = []
    for sentence in split_sentences(complete):
        denies = sentence.lower().startswith(("no ", "there is no", "the "))
        if rng.random() < (0.15 if denies else 0.4):
            continue
        swapped = sentence.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        kept.append(swapped if rng.random() < 0.3 else sentence)
    if rng.random() < 0.25:
        kept.insert(0, ADDED[int(rng.integers(len(ADDED)))])
    return " ".join(kept)


@lru_cache(maxsize=1)
def rows() -> list[dict[str, str]]:
    """Test rows of the cohort (image_id, patient_id, text_findings, complete_findings) with `completion`."""
    table = phantom_cohort(DATA, texts=True).table
    found = [row for row in table.to_pylist() if row["split"] == TEST and row["text_findings"]]
    return [row | {"completion": written(row["image_id"], row["complete_findings"])} for row in found]


@lru_cache(maxsize=1)
def evaluation() -> Evaluation:
    """Of all rows, with complete texts."""
    found = rows()
    return evaluate(
        [row["completion"] for row in found],
        [row["text_findings"] for row in found],
        [row["patient_id"] for row in found],
        complete=[row["complete_findings"] for row in found],
    )


def examples(most: int = 8) -> list[Example]:
    """As the page shows them."""
    found = rows()
    places = chosen([row["image_id"] for row in found], [row["complete_findings"] for row in found], most=most, seed=0)
    return [
        Example(
            image_id=found[place]["image_id"],
            image_SS=draw(findings_of(found[place]["findings"]), seed=0, image_id=found[place]["image_id"], size=128),
            completion=found[place]["completion"],
            reference=found[place]["text_findings"],
            complete=found[place]["complete_findings"],
            cut=number == most - 1,
        )
        for number, place in enumerate(places)
    ]


def scored(split: str = "test", resamples: int = 50) -> Scored:
    """What the page says of them."""
    found = rows()
    return Scored.of(
        evaluation(), split=split, completions=[row["completion"] for row in found],
        references=[row["text_findings"] for row in found], cut=3, resamples=resamples, seed=0,
    )  # fmt: skip


@lru_cache(maxsize=1)
def finetune_report() -> Report:
    """A run that went well."""
    config = FinetuneConfig(text=TextConfig(use="enriched", variants=2))
    losses = [(2.1, 1.5), (1.2, 0.99), (0.9, 0.83), (0.76, 0.86)]
    return Report(
        data=DataReport.of(
            SUMMARY, words="phantom images with label sets of padchest, and their reports", phantom=True,
            use="enriched", form="findings",
        ),
        model=ModelReport(
            vision="test_resnet, group norm, from scratch", connector="linear", language="small, 4 layers of width 192",
            method="full", parameters=2_600_123, learning=2_600_123, image_size=64, prompt=config.text.prompt,
        ),
        training=TrainingReport(
            history=[
                {"epoch": n, "loss": a, "validation_loss": b, "rate": 1e-3 / (n + 1), "seconds": 60.0 + n,
                 "replicas": (2, 1, 2, 2)[n]}
                for n, (a, b) in enumerate(losses)
            ],
            epochs=6,
            seeing=[{"epoch": n, "loss": 0.2 / (n + 1), "micro_f1": 0.5 - 0.4 / (n + 1)} for n in range(10)],
            restarts=2, zero=2, device="cpu", precision="float32", batch=48,
        ),
        scored=[scored()],
        examples=examples(),
        cost=Cost(
            seconds={"prepare": 20.0, "studies": 3.0, "see": 40.0, "train": 246.0, "write": 31.0, "score": 8.0},
            startup_seconds=9.0, reports_per_second=10.4, where="2 CPUs, 1 worker",
        ),
        rejected={"no findings": 2},
        rejected_rows=[("c17_1", "phantom", "no findings")],
        seed=3,
        config=flatten(config),
        defaults=flatten(FinetuneConfig()),
        config_hash="0123456789abcdef",
        versions={"raymedlt": "0.1.0", "torch": "2.8.0"},
    )  # fmt: skip
