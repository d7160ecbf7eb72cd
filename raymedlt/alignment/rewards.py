"""What a completion is worth: how far its findings and impression say what the original report says.

    reward = F1(findings) + F1(impression), in [0, 2]

A completion is `<think> findings </think><answer> impression </answer>`; one without tags is all findings, in [0, 1].
Each reward is a function f(completions, references, model) of the texts alone: it has no memory that changes a value,
and a value doesn't depend on what is scored beside it, bit for bit. It gives None where a completion cannot be scored,
see `reading.score_sections`; a merely bad one is worth 0.

* cluster_f1: SemEnrich's (arXiv 2604.09887). Sentences that aren't in the dictionary cost nothing, so a policy may add
  any of them; kept for comparison.
* cluster_f1_strict: part of the default, with finding_f1. Unknown, repeated and contradicting sentences cost (see
  `evaluation.clusters`).
* cluster_f1_weighted: the same with clusters weighted by severity (see `severity`).
* exact_f1: of sentences, which count as the same where they are spelled alike; the paper's baseline.
* finding_f1: of findings that the assertion rules read as present, without sides.
* bleu: of words.
* embedding_f1: of the sentences' vectors, see `similarity`.
* format_reward, repetition_penalty, length_penalty: see `form`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymedlt.alignment.form import format_reward, length_penalty, repetition_penalty
from raymedlt.alignment.reading import Given, Reference, Section, score_sections
from raymedlt.alignment.severity import cluster_weights
from raymedlt.alignment.similarity import SentenceVectors, greedy_f1
from raymedlt.errors import ConfigError, InputError
from raymedlt.evaluation import clusters
from raymedlt.evaluation.clusters import REMEMBERED, ClusterMap
from raymedlt.evaluation.findings import claims_of
from raymedlt.evaluation.overlap import sentence_bleu
from raymedlt.evaluation.sentences import keys_of, sentence_f1, set_f1
from raymedlt.storage import below

if TYPE_CHECKING:
    from raymedlt.clustering.model import ClusterModel

__all__ = [
    "BUILT_IN",
    "Reference",
    "Reward",
    "RewardModel",
    "bleu",
    "cluster_f1",
    "cluster_f1_strict",
    "cluster_f1_weighted",
    "embedding_f1",
    "exact_f1",
    "finding_f1",
    "format_reward",
    "length_penalty",
    "load_reward",
    "repetition_penalty",
]

SECTIONS = ("findings", "impression")
Weights = Mapping[str, Mapping[int, float]]


class RewardModel:
    """The clusters of findings and impressions, and the sentences that were looked up in them.

    maps: section -> ClusterMap. Their `hits` and `misses` count the sentences that were remembered and embedded.
    """

    def __init__(
        self,
        findings: ClusterModel,
        impression: ClusterModel,
        *,
        severity: Weights | str | Path | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        """Args:
        findings, impression: as jobs/enrich.py leaves them.
        severity: for `cluster_f1_weighted`: section -> cluster id -> weight, of every cluster; or a table of the
            findings' severities (a CSV file); None: the table of the package.
        remembered: sentences of each section that are kept in memory.
        """
        self.models = {"findings": findings, "impression": impression}
        self.maps = {name: ClusterMap(model, remembered) for name, model in self.models.items()}
        self._severity, self._remembered = severity, remembered

    @cached_property
    def vectors(self) -> Mapping[str, SentenceVectors]:
        """Section -> the vectors of its sentences."""
        return {name: SentenceVectors(model, self._remembered) for name, model in self.models.items()}

    def __reduce__(self) -> tuple[Callable[..., RewardModel], tuple[Any, ...]]:
        """A model that travels leaves behind the sentences that were looked up."""
        return _rebuilt, (*(self.models[name] for name in SECTIONS), self._severity, self._remembered)

    @classmethod
    def load(cls, folder: str | Path, *, severity: Weights | str | Path | None = None) -> RewardModel:
        """From the folder `model` of an output of jobs/enrich.py, a path or URI.

        Raises:
            InputError: it holds no cluster models.
        """
        from raymedlt.clustering.model import ClusterModel

        return cls(*(ClusterModel.load(below(str(folder), name)) for name in SECTIONS), severity=severity)

    @cached_property
    def weights(self) -> Weights:
        """Section -> cluster id -> weight.

        Raises:
            InputError: a cluster has no weight or a negative one; see also `severity.cluster_weights`.
        """
        if not isinstance(self._severity, Mapping):
            return {name: cluster_weights(model, self._severity) for name, model in self.models.items()}
        for name, model in self.models.items():
            given = self._severity.get(name, {})
            bad = [cluster for cluster in range(model.clusters) if not given.get(cluster, -1) >= 0]
            if bad:
                raise InputError(
                    f"no weight of {len(bad)} clusters of the {name} (first: {bad[0]})",
                    "0 or more for each cluster of both sections",
                    "give {'findings': {cluster: weight}, 'impression': {...}}",
                )
        return self._severity


def _rebuilt(
    findings: ClusterModel, impression: ClusterModel, severity: Weights | str | Path | None, remembered: int
) -> RewardModel:
    return RewardModel(findings, impression, severity=severity, remembered=remembered)


Reward = Callable[[Sequence[str], Sequence[Any], RewardModel], Sequence[float | None]]
"""What a reward is; `contract.check_reward` checks one."""


def cluster_f1(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel
) -> list[float | None]:
    """F1 of the clusters of known sentences, as in the paper."""

    def score(sections: Sequence[Section], name: str) -> list[float]:
        known = model.maps[name].known
        return [set_f1(known(keys_of(each.said)), known(keys_of(each.true))) for each in sections]

    return score_sections(completions, references, score)


def cluster_f1_strict(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel
) -> list[float | None]:
    """F1 of clusters, where what is unknown, repeated or contradicts the reference costs."""
    return _strict(completions, references, model, {})


def cluster_f1_weighted(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel
) -> list[float | None]:
    """`cluster_f1_strict`, with clusters weighted by severity; a reference of benign clusters alone has no weights."""
    return _strict(completions, references, model, model.weights)


def _strict(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel, weights: Weights
) -> list[float | None]:
    def score(sections: Sequence[Section], name: str) -> list[float]:
        languages = [each.language for each in sections]
        texts = [each.said for each in sections] + [each.true for each in sections]
        mapped = model.maps[name].map(texts, languages + languages)
        pairs = zip(mapped[: len(sections)], mapped[len(sections) :], strict=True)
        opposed = [clusters.contradicting_sentences(*each) for each in sections]
        return [clusters.cluster_f1_strict(*pair, k, weights.get(name)) for pair, k in zip(pairs, opposed, strict=True)]

    return score_sections(completions, references, score, judged=True)


def exact_f1(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel | None = None
) -> list[float | None]:
    """F1 of the distinct sentences."""

    def score(sections: Sequence[Section], name: str) -> list[float]:
        return [sentence_f1(each.said, each.true) for each in sections]

    return score_sections(completions, references, score)


def finding_f1(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel | None = None
) -> list[float | None]:
    """F1 of the findings that are claimed; 1 where both texts say something but claim no finding."""

    def score(sections: Sequence[Section], name: str) -> list[float]:
        return [_finding_f1(each) for each in sections]

    return score_sections(completions, references, score, judged=True)


def _finding_f1(section: Section) -> float:
    said, true = (claims_of(text, section.language).groups for text in (section.said, section.true))
    if said or true:
        return set_f1(said, true)
    return float(bool(keys_of(section.said)) and bool(keys_of(section.true)))


def bleu(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel | None = None
) -> list[float | None]:
    """Sentence BLEU of each section, see `evaluation.overlap`."""

    def score(sections: Sequence[Section], name: str) -> list[float]:
        found: list[float] = sentence_bleu([each.said for each in sections], [each.true for each in sections]).tolist()
        return found

    return score_sections(completions, references, score)


def embedding_f1(
    completions: Sequence[str | None], references: Sequence[Given], model: RewardModel
) -> list[float | None]:
    """F1 of greedily matched sentence vectors."""

    def score(sections: Sequence[Section], name: str) -> list[float]:
        pairs = [(keys_of(each.said), keys_of(each.true)) for each in sections]
        vectors = model.vectors[name].of(key for pair in pairs for keys in pair for key in keys)
        return [greedy_f1(said, true, vectors) for said, true in pairs]

    return score_sections(completions, references, score)


BUILT_IN: Mapping[str, Reward] = {
    reward.__name__: reward
    for reward in (
        cluster_f1_strict, cluster_f1_weighted, cluster_f1, exact_f1, finding_f1, bleu, embedding_f1,
        format_reward, repetition_penalty, length_penalty,
    )
}  # fmt: skip
"""Rewards by name; the first is the default."""


def load_reward(name: str) -> Reward:
    """A reward by its name: one of `BUILT_IN`, or "package.module:function" of your own.

    A function of your own is called as

        def reward(completions, references, model): ...

    with lists of equal length: completions (texts, as the policy wrote them) and references (`Reference`), and a
    `RewardModel`. It returns a list of as many numbers, None where a completion cannot be scored. It must be pure: a
    value may depend on nothing but its completion, its reference and the model. `contract.check_reward(function)` tries
    that.

    Raises:
        ConfigError: no such name, module or function.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in BUILT_IN:
            raise ConfigError(
                f"the reward '{name}'", f"one of {', '.join(BUILT_IN)}, or package.module:function", "correct the name"
            )
        return BUILT_IN[name]
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the reward '{name}' can't be imported ({type(error).__name__}: {error})",
            "package.module:function of a module on the Python path",
            "correct the name, or install the package where the job and its workers run",
        ) from error
    if not callable(found):
        raise ConfigError(f"the reward '{name}' is a {type(found).__name__}", "a function", "correct the name")
    reward: Reward = found
    return reward
