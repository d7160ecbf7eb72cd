"""A reward by the meaning of sentences as their encoder sees it, without clusters.

    P = mean over the completion's distinct sentences of the largest cosine to a sentence of the reference
    R = the same the other way round,    F1 = 2 P R / (P + R)

BERTScore's greedy matching (Zhang et al. 2020, arXiv 1904.09675, section 3), with sentences for tokens. Negative
cosines count as 0. It takes "no effusion" for nearly the same as "effusion": a companion of other rewards, hardly one
by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Encodes(Protocol):
    """What is needed of a `clustering.model.ClusterModel`."""

    keys: list[str]
    vectors: Vectors
    """float32 [N, D], unit vectors of the keys."""

    def encode(self, keys: list[str]) -> Vectors:
        """Unit vectors of other sentences, each independent of the others."""
        ...


class SentenceVectors:
    """Vectors of sentences: those of the dictionary, and the latest others that were asked for."""

    def __init__(self, model: Encodes, remembered: int) -> None:
        """Args:
        remembered: other sentences that are kept; 1.5 KB each with MiniLM.
        """
        self._model, self._remembered = model, remembered
        self._rows = {key: row for row, key in enumerate(model.keys)}
        self._others: OrderedDict[str, Vectors] = OrderedDict()

    def of(self, keys: Iterable[str]) -> dict[str, Vectors]:
        """Each distinct key's vector, [D]. Unknown sentences are embedded together, each once."""
        asked = sorted(set(keys))
        new = [key for key in asked if key not in self._rows and key not in self._others]
        if new:
            self._others |= zip(new, self._model.encode(new), strict=True)
        found = {}
        for key in asked:
            if key in self._rows:
                found[key] = self._model.vectors[self._rows[key]]
                continue
            found[key] = self._others[key]
            self._others.move_to_end(key)
        while len(self._others) > self._remembered:
            self._others.popitem(last=False)
        return found


def greedy_f1(said: Sequence[str], true: Sequence[str], vectors: dict[str, Vectors]) -> float:
    """F1 of two texts' distinct sentences (keys); 0 where either has none."""
    own, other = ([vectors[key] for key in sorted(set(keys))] for keys in (said, true))
    if not own or not other:
        return 0.0
    cosines = np.clip(np.stack(own) @ np.stack(other).T, 0, 1)
    precision, recall = float(cosines.max(1).mean()), float(cosines.max(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
