"""Cards of an aligned run: README.md of its folder and of its model."""

from __future__ import annotations

from collections.abc import Sequence

from raymedlt import __version__
from raymedlt.alignment.config import AlignConfig
from raymedlt.alignment.page import Compared
from raymedlt.runreport import markdown

_LIMITS = (
    "Not for diagnosis: nobody looked at the images, and the reports were written by a model.",
    "A reward measures agreement with reports, not truth: what reports leave out is not rewarded.",
)


def model_card(config: AlignConfig, compared: Sequence[Compared]) -> str:
    """The card of the model; the same wherever the run lies."""
    use = 'from raymedlt.finetuning import load\n\nload("FOLDER").generate(["a.png"])  # the folder of this file'
    head = markdown.header({"pipeline_tag": "image-text-to-text", "tags": ["radiology", "chest-x-ray", "grpo"]})
    title = "# A model that writes reports of chest X-rays, aligned"
    return f"{head}\n{title}\n\n{_body(config, compared)}\n\n```python\n{use}\n```\n"


def run_card(config: AlignConfig, compared: Sequence[Compared]) -> str:
    """The card of the run's folder: the table `generations`."""
    head = markdown.header({"configs": markdown.data_files(["generations"])})
    return (
        f"{head}\n# Reports written by an aligned model\n\n{_body(config, compared)}\n\n"
        "`generations`: schema.GENERATIONS of raymedlt, what the aligned model wrote, with its scores.\n"
    )


def _body(config: AlignConfig, compared: Sequence[Compared]) -> str:
    own = config.training
    made = markdown.escaped(
        f"A model of jobs/finetune.py, rewarded by GRPO with {', '.join(config.rewards.use)}: at most {own.steps} steps"
        f" of {config.rollouts.prompts} studies with {config.rollouts.generations} completions each, beta {own.beta:g}."
        f" Made by raymedlt {__version__}."
    )
    rows = [
        (each.name, f"{each.before.estimate:.3f}", f"{each.after.estimate:.3f}", f"{each.difference.low:+.3f} to"
         f" {each.difference.high:+.3f}")
        for each in compared
    ]  # fmt: skip
    scores = markdown.table(("score", "fine-tuned", "aligned", "95 % of the difference"), rows)
    return f"{made}\n\n{scores}\n\n{markdown.bullets(_LIMITS)}"
