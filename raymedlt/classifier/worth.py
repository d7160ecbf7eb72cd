"""What synthetic images are worth: the networks of `--synthetic.compare`, scored beside the configured ones.

Each way has as many networks as the ensemble has members, with the same seeds: the seeds together (their mean
probability), with the paired bootstrap over patients, and each seed alone, since seeds differ too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymedlt.classifier.config import ClassifyConfig
from raymedlt.classifier.evaluation import Evaluation, ablation_rows, evaluate, interval_json, mean_logits
from raymedlt.classifier.metrics import ALL, classes_of
from raymedlt.images.examples import Examples
from raymedlt.resampling import Interval

Scores = tuple[Any, Any]
"""Logits of the validation and of the test images."""


def worth_of(
    compared: Mapping[str, ClassifyConfig],
    examples: Examples,
    evaluation: Evaluation,
    members: Sequence[Scores],
    scores_of: Callable[[str], Scores],
    config: ClassifyConfig,
) -> dict[str, Any]:
    """Rows as of the ablation, differences to the configured way of use; and the tail's figure of each seed.

    Args:
        compared: name -> configuration, see `ablation.other_uses`; nothing is compared where it is empty.
        evaluation: of the members together.
        members: their scores.
        scores_of: the scores of a network by its name, "<name>-<number>".
    """
    if not compared:
        return {}
    found = {name: [scores_of(f"{name}-{number}") for number in range(len(members))] for name in compared}
    together = {
        name: evaluate(
            examples, mean_logits([each[0] for each in scores]), mean_logits([each[1] for each in scores]),
            compared[name],
        )
        for name, scores in found.items()
    }  # fmt: skip
    alone = {
        name: [interval_json(_on_tail(evaluate(examples, *each, config))) for each in scores]
        for name, scores in {config.synthetic.use: members, **found}.items()
    }
    rows = ablation_rows(evaluation, together)
    rows[0]["variant"] = config.synthetic.use
    return {"rows": rows, "seeds": alone}


def _on_tail(evaluation: Evaluation) -> Interval:
    """Average precision on the tail; over all classes where there is no tail."""
    members = classes_of(evaluation.groups)
    return evaluation.test.interval("average_precision", members.get("tail", members[ALL]))
