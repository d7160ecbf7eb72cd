"""What the scores are called on the finetune job's page and cards, and what they say."""

from __future__ import annotations

import math
from typing import NamedTuple

from raymedlt.evaluation.scores import COMPLETE
from raymedlt.finetuning.report import Scored
from raymedlt.resampling import Interval
from raymedlt.runreport.words import capital

UNDEFINED = "not defined"
APART = "words"
"""A score that is told in words: it has no better and worse."""

NAMES = {
    "micro_f1": ("Findings, F1", "all findings of all reports together"),
    "micro_precision": ("Findings, precision", "of the claimed ones, the share that is there"),
    "micro_recall": ("Findings, recall", "of those that are there, the share that is claimed"),
    "macro_f1": ("Findings, macro F1", "mean over findings: a rare one counts as much as a common one"),
    "micro_f1_sides": ("Findings, F1 with sides", "left and right are two findings"),
    "report_f1": ("Findings, F1 of a report", "mean over reports; 1 where neither text claims any"),
    "false_denials": ("False denials", "findings of the truth that a report expressly denies, per report; 0 is best"),
    "sentence_f1": ("Exact sentences, F1", "sentences that both texts have word for word"),
    "cluster_f1": ("Clusters, F1", "sentences that mean the same; unknown ones cost nothing (SemEnrich's)"),
    "cluster_f1_strict": ("Clusters, strict F1", "unknown, repeated and contradicting sentences cost precision"),
    "bleu": ("BLEU", "words in sequence; rewards style as much as content"),
    "rouge_l": ("ROUGE-L", "longest common sequence of words; rewards style as much as content"),
    "chrf": ("chrF", "characters in sequence"),
    "bertscore": ("BERTScore", "likeness of word vectors"),
    "chexbert_micro_f1": ("CheXbert, micro F1", "14 classes, read by a model"),
    "chexbert_macro_f1": ("CheXbert, macro F1", "mean over its classes"),
}
"""Name in evaluation.scores -> name and meaning, in the order of the table."""


def named(score: str) -> tuple[str, str]:
    """Title and meaning of a score, without the prefix of complete texts."""
    own = score.removeprefix("radeval_")
    title = f"RadEval: {own}" if own != score else capital(score)
    return NAMES.get(score, (title.replace("_", " "), ""))


class Row(NamedTuple):
    """A score against the original reports and, where it has such a value, against complete texts."""

    name: str
    meaning: str
    original: Interval
    complete: Interval | None


def rows_of(scored: Scored) -> list[Row]:
    """Every score but the words, known ones first."""
    own = [name for name in scored.scores if not name.startswith(COMPLETE) and name != APART]
    ranked = sorted(own, key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES))
    return [
        Row(
            *named(name),
            scored.scores[name],
            scored.scores.get(f"{COMPLETE}{name}"),
        )
        for name in ranked
    ]


def value_words(found: Interval | None, digits: int = 3) -> str:
    """The value; "" for none at all."""
    if found is None:
        return ""
    return f"{found.estimate:.{digits}f}" if math.isfinite(found.estimate) else UNDEFINED


def ends_words(found: Interval | None, digits: int = 3) -> str:
    """The interval, "" without one."""
    if found is None or not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ""
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def whole_words(found: Interval | None, digits: int = 3) -> str:
    """The value with its interval in brackets."""
    ends = ends_words(found, digits)
    return value_words(found, digits) + (f" ({ends})" if ends else "")
