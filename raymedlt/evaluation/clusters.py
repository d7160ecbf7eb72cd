"""Agreement of two reports in clusters of sentences: what they say, however they put it.

Two scores. `cluster_f1` is SemEnrich's (arXiv 2604.09887): sentences are looked up in the dictionary of clustered
sentences, and one that isn't in it is skipped, at no cost. `cluster_f1_strict` closes that hole: an unknown sentence is
embedded and belongs to the nearest cluster within the model's limit, if it isn't of another sign ("pleural effusion" is
near to its denial); what has none, what is said twice and what contradicts the reference costs precision:

    P = max(0, |G n T| - k) / (|G| + u + d),    R = max(0, |G n T| - k) / |T|

with u distinct unmapped sentences, d repeated ones and k that contradict a sentence of the reference (same finding,
opposite assertion or other side). Both are 0 if G or T is empty. With a weight w of each cluster, |S| is the sum of
w over S, and each of u, d and k counts as much as a mean cluster of the reference, w(T) / |T|: equal weights change
nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raymedlt.evaluation.findings import Claims, Finding, claims_of
from raymedlt.evaluation.sentences import keys_of, set_f1
from raymedlt.reports.assertion import judge
from raymedlt.reports.labels import contradicts
from raymedlt.reports.sentences import split_sentences

REMEMBERED = 100_000
"""Sentences that a `ClusterMap` remembers; some 20 MB."""
_OTHER = {"left": "right", "right": "left"}


class Clusters(Protocol):
    """What is needed of a `clustering.model.ClusterModel`."""

    keys: list[str]
    information: dict[str, Any]
    """signs: of each cluster, "mixed" where its sentences differ; without it signs are not looked at."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The cluster of each key, -1 for noise."""
        ...

    def assign(self, sentences_or_vectors: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Cluster ids, -1 where none is near, and distances."""
        ...


@dataclass(frozen=True, slots=True)
class Mapped:
    """A report in clusters."""

    known: frozenset[int]
    """Clusters of its sentences that are in the dictionary."""
    nearest: frozenset[int]
    """The same, with those of unknown sentences near to a cluster."""
    unmapped: int
    """Distinct sentences without a cluster."""
    repeated: int
    """Sentences that were there before."""


class ClusterMap:
    """Sentences to clusters. The latest sentences that weren't in the dictionary are remembered."""

    hits: int
    """Sentences that were remembered, of each `map` the distinct ones."""
    misses: int
    """Sentences that had to be embedded."""

    def __init__(self, model: Clusters, remembered: int = REMEMBERED) -> None:
        """Args:
        model: of the findings or the impressions, as jobs/enrich.py leaves one.
        remembered: sentences; the ones that weren't asked for longest are forgotten.
        """
        self._model = model
        self._known: dict[str, int] = dict(zip(model.keys, model.labels.tolist(), strict=True))
        self._signs: list[str] = model.information.get("signs", [])
        self._near: OrderedDict[str, int] = OrderedDict()
        self._remembered = remembered
        self.hits = self.misses = 0

    def map(self, texts: Sequence[str], language: str | Sequence[str] = "en") -> list[Mapped]:
        """Each report in clusters. Unknown sentences are embedded, each once, all of `texts` together.

        A report's clusters don't depend on the other reports, nor on what is remembered.

        Args:
            language: of all texts, or of each.

        Raises:
            InputError: no assertion rules for a language.
        """
        languages = [language] * len(texts) if isinstance(language, str) else language
        keys = [keys_of(text) for text in texts]
        near = self._looked_up(key for each in keys for key in each)
        return [self._mapped(each, near, spoken) for each, spoken in zip(keys, languages, strict=True)]

    def known(self, keys: Sequence[str]) -> frozenset[int]:
        """Clusters of the sentences that are in the dictionary; nothing is embedded."""
        return frozenset(number for number in (self._known.get(key, -1) for key in keys) if number >= 0)

    def _looked_up(self, keys: Iterable[str]) -> dict[str, int]:
        asked = sorted({key for key in keys if key not in self._known})
        new = [key for key in asked if key not in self._near]
        self.hits += len(asked) - len(new)
        self.misses += len(new)
        if new:
            self._near |= zip(new, self._model.assign(new)[0].tolist(), strict=True)
        found = {key: self._near[key] for key in asked}
        for key in asked:
            self._near.move_to_end(key)
        while len(self._near) > self._remembered:
            self._near.popitem(last=False)
        return found

    def _mapped(self, keys: Sequence[str], near: Mapping[str, int], language: str) -> Mapped:
        distinct = frozenset(keys)
        known = {key: self._known[key] for key in distinct if key in self._known}
        ids = known | {key: self._agreeing(key, near[key], language) for key in distinct if key not in known}
        return Mapped(
            self.known(keys),
            frozenset(number for number in ids.values() if number >= 0),
            sum(number < 0 for number in ids.values()),
            len(keys) - len(distinct),
        )

    def _agreeing(self, key: str, cluster: int, language: str) -> int:
        """The cluster that is near to a sentence, -1 if it is of another sign."""
        if cluster < 0 or not self._signs or self._signs[cluster] in ("mixed", _sign(key, language)):
            return cluster
        return -1


@lru_cache(REMEMBERED)
def _sign(key: str, language: str) -> str:
    return judge(key, language).sign


def cluster_f1(generated: Mapped, reference: Mapped) -> float:
    """As the paper's."""
    return set_f1(generated.known, reference.known)


def cluster_f1_strict(
    generated: Mapped, reference: Mapped, contradicting: int, weights: Mapping[int, float] | None = None
) -> float:
    """The strict one.

    Args:
        contradicting: k, see `contradicting_sentences`.
        weights: of each cluster, 0 or more; a reference whose clusters all have none is scored without weights.
    """
    if weights is None or not any(weights[cluster] for cluster in reference.nearest):
        weights = dict.fromkeys(generated.nearest | reference.nearest, 1.0)
    shared, said, true = (
        sum(weights[cluster] for cluster in sorted(clusters))
        for clusters in (generated.nearest & reference.nearest, generated.nearest, reference.nearest)
    )
    each = true / max(1, len(reference.nearest))
    hits = shared - contradicting * each
    if hits <= 0:
        return 0.0
    precision = hits / (said + (generated.unmapped + generated.repeated) * each)
    recall = hits / true
    return 2 * precision * recall / (precision + recall)


def contradicting_sentences(completion: str, reference: str, language: str = "en") -> int:
    """Distinct sentences of a report that assert what the reference denies, deny what it asserts, or put it on the
    other side.

    Where the reference itself has both ("no effusion on the right ... left effusion"), sides decide.
    """
    truth = claims_of(reference, language)
    distinct = dict(zip(keys_of(completion), split_sentences(completion), strict=True))
    return sum(_opposes(claims_of(sentence, language), truth) for sentence in distinct.values())


def _opposes(claims: Claims, truth: Claims) -> bool:
    asserts = any(contradicts(denial, label) for denial in truth.denied for label in claims.asserted - truth.asserted)
    denies = any(contradicts(denial, label) for denial in claims.denied - truth.denied for label in truth.asserted)
    return asserts or denies or any(_on_the_other_side(finding, claims, truth) for finding in claims.present)


def _on_the_other_side(finding: Finding, claims: Claims, truth: Claims) -> bool:
    """Whether both texts name sides of a finding, and no side is named by both."""
    if not finding.side:
        return False
    other = Finding(finding.group, _OTHER[finding.side])
    return finding not in truth.present and other in truth.present and other not in claims.present
