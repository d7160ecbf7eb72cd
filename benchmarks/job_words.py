"""Arguments with which the jobs take a minute each, and a source of real reports for the first of them."""

from __future__ import annotations

from typing import Any

_SHARED = ("--phantom", "--labels", "--output")
WORDS: dict[str, list[str]] = {
    "enrich": ["--reports.path={root}/reports.csv", "--reports.format=csv", "--output={root}/enrich"],
    "evaluate": ["--run={root}/enrich", "--output={root}/evaluate"],
    "classify": [
        "--phantom.images=1500", "--phantom.test_images=300", "--phantom.test_positives=20",
        "--training.stage2_epochs=3", "--output={root}/classify",
    ],
    "synthesize": [
        "--phantom.images=1100", "--phantom.test_images=60", "--phantom.test_positives=5", "--phantom.classes=6",
        "--images.size=32", "--labels.min_positives=5", "--classifier.epochs=2", "--generator.small.size=32",
        "--generator.small.unet_channels=[32,64]", "--generator.small.vae_channels=[16,16,32]",
        "--generator.autoencoder.steps=40", "--generator.autoencoder.decoder_steps=20", "--learning.steps=40",
        "--plan.groups=all", "--plan.count=40", "--gate.least_positives=2", "--sampling.steps=4",
        "--output={root}/synthesize",
    ],
    "finetune": [
        "--phantom.images=400", "--phantom.test_images=40", "--phantom.classes=6", "--images.size=32",
        "--model.small_width=48", "--model.small_heads=2", "--training.seeing_epochs=1", "--training.epochs=1",
        "--generation.max_tokens=40", "--output={root}/finetune",
    ],
    "align": [
        "--finetuned={root}/finetune", "--rollouts.prompts=2", "--rollouts.generations=4",
        "--rollouts.max_tokens=40", "--training.steps=4", "--training.micro_batch=4",
        "--training.checkpoint_steps=2", "--training.validation=16", "--output={root}/align",
    ],
}  # fmt: skip
"""By job, in an order in which what one needs is there, as in .ci/run. {root}: folder or URI of inputs and outputs."""
WORDS["enrich-ray"] = [*WORDS["enrich"][:2], "--ray_from=0", "--workers=2", "--output={root}/enrich-ray"]
WORDS["finetune-ray"] = [*WORDS["finetune"][:-1], "--training.replicas=2", "--output={root}/finetune-ray"]
WORDS["pipeline"] = [
    "--reports.path={root}/reports.csv", "--reports.format=csv", "--phantom.images=1100", "--phantom.test_images=60",
    "--phantom.test_positives=5", "--phantom.classes=6", "--images.size=32", "--labels.min_positives=5",
    *("--synthesize." + word.removeprefix("--") for word in WORDS["synthesize"] if not word.startswith(_SHARED)),
    "--classify.training.stage2_epochs=2", "--classify.evaluation.bootstrap=100",
    *("--finetune." + word.removeprefix("--") for word in WORDS["finetune"] if not word.startswith("--output")),
    *("--align." + word.removeprefix("--") for word in WORDS["align"] if not word.startswith(("--output", "--fine"))),
    "--output={root}/pipeline",
]  # fmt: skip


def csv_of(reports: Any) -> bytes:
    """The columns that jobs/enrich.py reads from a CSV file."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    sink = pa.BufferOutputStream()
    names = ["report_id", "study_id", "patient_id", "split", "findings", "impression", "indication"]
    pacsv.write_csv(reports.select(names), sink)
    return bytes(sink.getvalue())
