"""Rewards for how a completion is written, whatever it says. They don't look at the clusters."""

from __future__ import annotations

from collections.abc import Sequence

from raymedlt.alignment.reading import Given, Section, check_lengths, reference_of, score_sections
from raymedlt.evaluation.answers import in_form, split_answer
from raymedlt.evaluation.sentences import keys_of

NGRAM = 4  # words: honest reports repeat "there is no" many times
ALLOWED = 2.0  # times the words of the reference
ALLOWED_WORDS = 30  # but at least so many: impressions of three words are common


def format_reward(
    completions: Sequence[str | None], references: Sequence[Given], model: object = None
) -> list[float | None]:
    """1 for `<think> findings </think><answer> impression </answer>` with words in both and nothing outside, else 0.

    None where the completion is missing.
    """
    return [None if text is None else float(in_form(text)) for text in completions]


def repetition_penalty(
    completions: Sequence[str | None], references: Sequence[Given], model: object = None
) -> list[float | None]:
    """Minus the share of runs of four words that were there before in their section, in [-2, 0].

    It sees what loops within a sentence too. None where completion or reference is missing.
    """

    def score(sections: Sequence[Section], name: str) -> list[float]:
        return [-_repeated(each.said) for each in sections]

    return score_sections(completions, references, score)


def length_penalty(
    completions: Sequence[str | None], references: Sequence[Given], model: object = None
) -> list[float | None]:
    """0 up to L words, then falling to -1 at 2 L, with L twice the words of the reference, 30 at least.

    The soft punishment of overlong answers of DAPO (arXiv 2503.14476, equation 13), with the reference for the limit.
    None where completion or reference is missing.
    """
    check_lengths(completions, references)
    penalties: list[float | None] = []
    for completion, given in zip(completions, references, strict=True):
        reference = reference_of(given)
        if completion is None or reference is None:
            penalties.append(None)
            continue
        limit = max(ALLOWED * _words(reference.findings, reference.impression), ALLOWED_WORDS)
        excess = (_words(*split_answer(completion)) - limit) / limit
        penalties.append(-min(1.0, max(0.0, excess)))
    return penalties


def _repeated(text: str) -> float:
    words = " ".join(keys_of(text)).split()
    runs = [tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
