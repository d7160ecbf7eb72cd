"""The model card that lies beside the weights: Markdown with the header that model hubs read.

It holds counts, figures and versions; no image, no image or patient id, and nothing of a report's text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raymedlt.classifier.report import (
    FEW_POSITIVES,
    GROUPS,
    PHANTOM,
    UNCERTAIN,
    ClassScores,
    Report,
    judged,
    undefined_classes,
    warnings_of,
)
from raymedlt.config import config_hash
from raymedlt.runreport.markdown import bullets, data_files, escaped, header, table
from raymedlt.runreport.words import NOT_FOR_DIAGNOSIS, capital

MEASURES = {"ap": "AP", "auc": "AUC", "f1": "F1"}


def model_card(report: Report, *, folder: str = "model", license_words: str = "") -> str:
    """The card, Markdown with a YAML header.

    Args:
        folder: where the model lies, as it shall stand in the example of use.
        license_words: under what the weights may be used, for the header; left out when "".
    """
    parts = [
        _header(report, license_words),
        _what_it_is(report, folder),
        _data(report),
        _method(report),
        _scores(report),
        _thresholds(report),
        _limits(report),
        _made_by(report),
    ]
    return "\n".join(parts)


def _header(report: Report, license_words: str) -> str:
    metrics = [
        {"type": measure, "name": f"{MEASURES[measure]}, {group}", "value": round(estimate.value, 4)}
        for group in ("all", *GROUPS)
        for measure in MEASURES
        if math.isfinite((estimate := report.score(group, measure)).value)
    ]
    fields: dict[str, object] = {
        "configs": data_files(["predictions", *(["rejected"] if report.rejected else [])]),
        "library_name": "raymedlt",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "multi-label", "long-tail", "not-for-diagnosis"]
        + (["synthetic-data"] if report.phantom else []),
        "model-index": [
            {
                "name": "raymedlt classifier",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "multi-label classification of chest X-rays"},
                        "dataset": {
                            "type": "phantom" if report.phantom else "chest-x-rays",
                            "name": report.data,
                            "split": "test",
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }  # fmt: skip
    return header(fields, license_words)


def _what_it_is(report: Report, folder: str) -> str:
    size = f" ({report.parameters:,} parameters)" if report.parameters else ""
    image = report.config.images.size
    return f"""# Long-tailed multi-label classifier of chest X-rays

{NOT_FOR_DIAGNOSIS}
{PHANTOM if report.phantom else ""}

{escaped(report.model)}{size}.
It takes grey chest X-rays of {image} x {image} pixels and gives a calibrated probability for each of
{len(report.classes)} findings; an image may show several or none.

## Use

```python
from raymedlt.classifier import load

probabilities, names = load("{folder}").predict(images)  # [B, {len(report.classes)}], and the class names
```

The weights are safetensors: loading them runs no code of theirs.
"""


def _data(report: Report) -> str:
    rows = [
        (name, f"{counts.images:,}", f"{counts.patients:,}", f"{counts.synthetic:,}")
        for name, counts in report.splits.items()
    ]
    left_out = [(name, f"{positives:,}", why) for name, positives, why in report.left_out]
    text = f"""## Data

{escaped(capital(report.data))}. Splits are by patient and were checked for leaks. An uncertain label
{UNCERTAIN[report.config.labels.uncertain]}. {sum(report.rejected.values()):,} rows were rejected.

{table(("split", "images", "patients", "synthetic images"), rows)}
"""
    if left_out:
        text += f"\nNot learnt:\n\n{table(('class', 'training positives', 'why'), left_out)}\n"
    return text


def _method(report: Report) -> str:
    model, loss = report.config.model, report.config.loss
    text = f"""## Method

TRCGL-Net ([arXiv 2607.00975](https://arxiv.org/abs/2607.00975)), implemented from its description: backbone
`{model.backbone}`, channel reweighting {"on" if model.gate else "off"}, attention `{model.attention}`, label graph
`{model.graph}`, loss `{loss.name}`, sampling `{loss.sampling}`. The evaluated weights are a moving average
(decay {report.config.training.ema:g}), from the epoch with the best validation mAP.
"""
    rows = [
        (row.variant, str(row.tail), str(row.tail_difference or ""), judged(row.tail_difference))
        for row in report.ablation
    ]
    if rows:
        head = ("network", "tail mAP", "difference to full (paired)", "the part")
        text += f"\nWhat each part is worth, by networks trained without it:\n\n{table(head, rows)}\n"
    if report.worth:
        head = ("use of synthetic images", "tail mAP", f"difference to {report.worth[0].use} (paired)", "networks")
        uses = [(row.use, str(row.tail), str(row.tail_difference or ""), str(len(row.seeds))) for row in report.worth]
        text += f"\nWhat synthetic images are worth; real-images-again is the fair control:\n\n{table(head, uses)}\n"
    return text


def _scores(report: Report) -> str:
    split = report.config.split
    cuts = {
        "all": "all",
        "head": f"head (over {100 * split.head_above:g} % of training images)",
        "medium": f"medium ({100 * split.tail_up_to:g} to {100 * split.head_above:g} %)",
        "tail": f"tail (at most {100 * split.tail_up_to:g} %)",
    }
    rows = [
        (
            words,
            str(sum(group in ("all", c.group) for c in report.classes)),
            *(str(report.score(group, measure)) for measure in MEASURES),
        )
        for group, words in cuts.items()
    ]
    ranked = sorted(report.classes, key=lambda c: (-c.training_positives, c.name))
    classes = [
        (
            c.name,
            c.group,
            f"{c.training_positives:,}",
            f"{c.test_positives:,}",
            str(c.ap),
            _number(c.chance),
            str(c.auc),
        )
        for c in ranked
    ]
    undefined = undefined_classes(report)
    note = (
        f"\nUndefined for want of positive or of negative test images: {escaped(', '.join(undefined))}.\n"
        if undefined
        else ""
    )
    return f"""## Scores

Test images, scored once. In brackets 95 % intervals from {report.config.evaluation.bootstrap:,} resamples of whole
patients. Means leave undefined classes out.

{table(("classes", "how many", *MEASURES.values()), rows)}

{table(("class", "group", "training +", "test +", "AP", "AP of guessing", "AUC"), classes)}
{note}"""


def _thresholds(report: Report) -> str:
    ranked: Sequence[ClassScores] = sorted(report.classes, key=lambda c: (-c.training_positives, c.name))
    rows = [(c.name, _number(c.threshold), _number(c.f1), _number(c.ece)) for c in ranked]
    errors = ", ".join(f"{one.ece:.4f} {name}" for name, one in report.reliability.items())
    words = f"Expected calibration error over all classes: {errors}. " if errors else ""
    if report.temperature is not None:
        words += f"Logits are divided by {report.temperature:.3f} (temperature, fitted on validation)."
    return f"""## Thresholds and calibration

{words}
Thresholds were chosen on the validation images, for the largest F1 of each class. They hold for data with the same
frequencies; choose your own for yours.

{table(("class", "threshold", "F1", "ECE"), rows)}
"""


def _limits(report: Report) -> str:
    own = [
        f"A class with fewer than {FEW_POSITIVES} test positives has figures that one image can move.",
        "Average precision depends on how frequent a finding is: figures from other data are not comparable.",
        "Labels that were read from reports are wrong in places, and so are the scores against them.",
        "Other scanners, views, ages and hospitals than the training data's were not tested.",
        "Attention maps show where features were weighed, not why.",
    ]
    return f"## Limits\n\n{bullets([*warnings_of(report), *own])}\n"


def _made_by(report: Report) -> str:
    rows = [("configuration", f"`{config_hash(report.config)}`"), ("seed", str(report.config.seed))]
    rows += [(name, version) for name, version in report.versions.items()]
    return f"""## Made by

`jobs/classify.py` of raymedlt; the configuration is in config.yaml, pictures and attention maps are in report.html.

{table(("what", "which"), rows)}
"""


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
