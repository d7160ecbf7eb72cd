"""Agreement of two reports in clusters of sentences: what they say, however they put it.

Two scores. `cluster_f1` is SemEnrich's (arXiv 2604.09887): sentences are looked up in the dictionary of clustered
sentences, and one that isn't in it is skipped, at no cost. `cluster_f1_strict` closes that hole: an unknown sentence is
embedded and belongs to the nearest cluster within the model's limit; what has none, what is said twice and what
contradicts the reference costs precision:

    P = max(0, |G n T| - k) / (|G| + u + d),    R = max(0, |G n T| - k) / |T|

with u distinct unmapped sentences, d repeated ones and k that contradict a sentence of the reference (same finding,
opposite assertion). Both are 0 if G or T is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raymedlt.evaluation.findings import Claims, claims_of
from raymedlt.evaluation.sentences import keys_of, set_f1
from raymedlt.reports.labels import contradicts
from raymedlt.reports.sentences import split_sentences


class Clusters(Protocol):
    """What is needed of a `clustering.model.ClusterModel`."""

    keys: list[str]

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
    """Sentences to clusters; what was looked up is remembered."""

    def __init__(self, model: Clusters) -> None:
        """Args: model: of the findings or the impressions, as jobs/enrich.py leaves one."""
        self._model = model
        self._known: dict[str, int] = dict(zip(model.keys, model.labels.tolist(), strict=True))
        self._near: dict[str, int] = {}

    def map(self, texts: Sequence[str]) -> list[Mapped]:
        """Each report in clusters. Unknown sentences are embedded, each once, all of `texts` together."""
        keys = [keys_of(text) for text in texts]
        self._look_up(key for each in keys for key in each)
        return [self._mapped(each) for each in keys]

    def _look_up(self, keys: Iterable[str]) -> None:
        new = sorted({key for key in keys if key not in self._known and key not in self._near})
        if new:
            self._near |= zip(new, self._model.assign(new)[0].tolist(), strict=True)

    def _mapped(self, keys: Sequence[str]) -> Mapped:
        distinct = frozenset(keys)
        ids = {key: self._known.get(key, self._near.get(key, -1)) for key in distinct}
        return Mapped(
            frozenset(self._known[key] for key in distinct if self._known.get(key, -1) >= 0),
            frozenset(number for number in ids.values() if number >= 0),
            sum(number < 0 for number in ids.values()),
            len(keys) - len(distinct),
        )


def cluster_f1(generated: Mapped, reference: Mapped) -> float:
    """As the paper's."""
    return set_f1(generated.known, reference.known)


def cluster_f1_strict(generated: Mapped, reference: Mapped, contradicting: int) -> float:
    """The strict one; `contradicting` is k, see `contradicting_sentences`."""
    hits = max(0, len(generated.nearest & reference.nearest) - contradicting)
    if not hits:
        return 0.0
    precision = hits / (len(generated.nearest) + generated.unmapped + generated.repeated)
    recall = hits / len(reference.nearest)
    return 2 * precision * recall / (precision + recall)


def contradicting_sentences(completion: str, reference: str, language: str = "en") -> int:
    """Distinct sentences of a report that assert what the reference denies, or deny what it asserts.

    Where the reference itself has both ("no effusion on the right ... left effusion"), sides decide.
    """
    truth = claims_of(reference, language)
    distinct = dict(zip(keys_of(completion), split_sentences(completion), strict=True))
    return sum(_opposes(claims_of(sentence, language), truth) for sentence in distinct.values())


def _opposes(claims: Claims, truth: Claims) -> bool:
    asserts = any(contradicts(denial, label) for denial in truth.denied for label in claims.asserted - truth.asserted)
    denies = any(contradicts(denial, label) for denial in claims.denied - truth.denied for label in truth.asserted)
    return asserts or denies
