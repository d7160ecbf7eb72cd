"""Agreement of two texts in words and characters: sentence BLEU, chrF, ROUGE-L. All in [0, 1], case does not count.

These reward style as much as content: see `style` for a score that takes it into account.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raymedlt.errors import InputError

Floats = npt.NDArray[np.float64]


def sentence_bleu(completions: Sequence[str], references: Sequence[str]) -> Floats:
    """BLEU of each report on its own, [N] (Papineni et al., ACL 2002), as sacrebleu computes it (13a tokens).

    Orders for which the report is too short don't count (effective order), the others are smoothed (exponentially,
    Chen and Cherry, WMT 2014). 0 where either text is empty.

    Raises:
        InputError: different numbers of texts.
    """
    return _each(_scorers()[0], completions, references)


def chrf(completions: Sequence[str], references: Sequence[str]) -> Floats:
    """chrF of each report, [N] (Popović, WMT 2015): F2 of character 1- to 6-grams, as sacrebleu computes it.

    0 where either text is empty. Raises InputError as `sentence_bleu`.
    """
    return _each(_scorers()[1], completions, references)


def rouge_l(completions: Sequence[str], references: Sequence[str]) -> Floats:
    """ROUGE-L of each report, [N] (Lin, 2004): F1 of the longest common subsequence of words, as torchmetrics computes
    it, without stemming.

    0 where either text is empty. Raises InputError as `sentence_bleu`. O(words of one x words of the other) a report.
    """
    from torchmetrics.functional.text import rouge_score

    found = []
    for completion, reference in _pairs(completions, references):
        if not completion or not reference:
            found.append(0.0)
        else:
            # One by one: over several texts it gives their mean alone.
            found.append(float(rouge_score(completion, reference, rouge_keys="rougeL")["rougeL_fmeasure"]))
    return np.asarray(found, np.float64)


@cache
def _scorers() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(lowercase=True, effective_order=True), CHRF(lowercase=True)


def _each(scorer: Any, completions: Sequence[str], references: Sequence[str]) -> Floats:
    pairs = _pairs(completions, references)
    return np.asarray([scorer.sentence_score(a, [b]).score / 100 if a and b else 0.0 for a, b in pairs], np.float64)


def _pairs(completions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(completions) != len(references):
        raise InputError(f"{len(completions)} reports and {len(references)} references", "one reference for each")
    return [(" ".join(a.split()), " ".join(b.split())) for a, b in zip(completions, references, strict=True)]
