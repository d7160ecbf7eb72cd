"""Agreement of two reports as sets: of sentences here, of clusters in `clusters`. SemEnrich (arXiv 2604.09887), reward.

F1(G, T) of what a report has (G) and the reference has (T) is 0 if either is empty, else 2PR / (P + R) with
P = |G n T| / |G| and R = |G n T| / |T|.
"""

from __future__ import annotations

from collections.abc import Hashable, Set

from raymedlt.reports.sentences import sentence_key, split_sentences


def set_f1(generated: Set[Hashable], reference: Set[Hashable]) -> float:
    """F1(G, T), in [0, 1]."""
    hits = len(generated & reference)
    return 2 * hits / (len(generated) + len(reference)) if hits else 0.0


def keys_of(text: str) -> list[str]:
    """The keys of a report's sentences in reading order, repeats included (see reports.sentences)."""
    return [sentence_key(sentence) for sentence in split_sentences(text)]


def sentence_f1(completion: str, reference: str) -> float:
    """F1 of the distinct sentences, which count as the same where their keys are."""
    return set_f1(frozenset(keys_of(completion)), frozenset(keys_of(reference)))
