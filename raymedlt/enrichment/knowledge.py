"""What is learnt from the training reports: clusters with their signs, donors with their denials, arcs with evidence.

`cluster_section` and `judge_section` take one section; `learn` builds the co-occurrence graph of the findings.
All are pure: vectors in, knowledge out. `Knowledge` is small (sentences, labels, bit sets) and goes to every writer.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from raymedlt.clustering.fit import Clustering, cluster
from raymedlt.clustering.model import medoids, members_of
from raymedlt.clustering.neighbours import nearest_among
from raymedlt.clustering.screening import Distances, Ids, Vectors
from raymedlt.config import EnrichConfig
from raymedlt.enrichment import guard
from raymedlt.enrichment.cliques import as_bits
from raymedlt.enrichment.corpus import Section
from raymedlt.enrichment.graph import Arcs, build_arcs, membership
from raymedlt.enrichment.policy import POLICIES, Policy
from raymedlt.enrichment.text import finished
from raymedlt.seeds import keyed_seed

CORE, SECOND_CHANCE, NOISE = "core", "second_chance", "noise"
SIGNS = ("normal", "neutral", "abnormal", "mixed")


@dataclass(frozen=True)
class SectionFit:
    """One section's sentences, clustered and judged. K distinct sentences, C clusters.

    labels: int32 [K], second chances included, -1 is noise. assigned, signs: K words. cluster_signs: C words.
    purity: float [C], count-weighted share of the cluster's commonest sign. medoids: int64 [C], sentence numbers.
    """

    section: Section
    vectors: Vectors  # [K, D]
    clustering: Clustering
    labels: npt.NDArray[np.int32]
    assigned: list[str]
    signs: list[str]
    cluster_signs: list[str]
    purity: npt.NDArray[np.float64]
    medoids: npt.NDArray[np.int64]


def cluster_section(section: Section, vectors_KD: Vectors, config: EnrichConfig) -> Clustering:
    """Cluster a section's distinct sentences, vectors in the order of its keys."""
    return cluster(vectors_KD, config.clustering, clustering_seed(section, config))


def clustering_seed(section: Section, config: EnrichConfig) -> int:
    """Seed of whatever is random in a section's clustering."""
    return keyed_seed(config.seed, "clustering", section.name)


def judge_section(
    section: Section,
    vectors_KD: Vectors,
    clustering: Clustering,
    config: EnrichConfig,
    language: str,
    nearest: tuple[Ids, Distances] | None = None,
) -> SectionFit:
    """Judge each sentence, let clusters vote on their sign, offer noise a second chance.

    `nearest`: of every sentence in no cluster the nearest one in a cluster and its distance, as `nearest_among` finds
    them (O(K^2) pairs) where they are not given.
    """
    core = clustering.labels
    signs = [guard.judged(key, language)[0].sign for key in section.keys]
    clusters = int(core.max(initial=-1)) + 1
    cluster_signs, purity = _vote(core, signs, section.counts, clusters, config.graph.min_purity)
    labels, assigned = core.copy(), np.where(core >= 0, CORE, NOISE).astype(object)
    if has_second_chances(config):
        noise = np.flatnonzero(core < 0)
        points, distances = nearest or nearest_among(vectors_KD, noise, np.flatnonzero(core >= 0))
        labels[noise] = second_chances(
            [signs[number] for number in noise],
            points,
            distances,
            core,
            cluster_signs,
            config.clustering.second_chance,
        )
        assigned[noise[labels[noise] >= 0]] = SECOND_CHANCE
    return SectionFit(
        section, vectors_KD, clustering, labels, list(assigned), signs, cluster_signs, purity, medoids(vectors_KD, core)
    )


def has_second_chances(config: EnrichConfig) -> bool:
    """Whether sentences in no cluster may join that of their nearest clustered sentence."""
    return POLICIES[config.policy].second_chance and config.clustering.second_chance < 1


def second_chances(
    signs: list[str],
    nearest_M: Ids,
    distances_M: Distances,
    core_N: npt.NDArray[np.int32],
    cluster_signs: list[str],
    cosine: float,
) -> npt.NDArray[np.int32]:
    """Cluster of the nearest clustered sentence at `cosine` or above, int32 [M]; -1 where there is none. At 1 none is.

    A sentence never joins a cluster of another sign, however near its words are: "there is a pleural effusion" lies at
    cosine 0.71 from its denial.

    Args:
        signs: of the M sentences that are in no cluster.
        nearest_M, distances_M: of each of them the nearest clustered sentence (-1: none), and its distance.
        core_N: clusters of all sentences, -1 for none.
    """
    labels = np.full(len(nearest_M), -1, np.int32)
    if cosine >= 1:
        return labels
    for number in np.flatnonzero((nearest_M >= 0) & (distances_M <= np.sqrt(2 - 2 * cosine))):
        label = core_N[nearest_M[number]]
        if cluster_signs[label] in (signs[number], "mixed"):
            labels[number] = label
    return labels


def _vote(
    labels: npt.NDArray[np.int32], signs: list[str], counts: npt.NDArray[np.int32], clusters: int, min_purity: float
) -> tuple[list[str], npt.NDArray[np.float64]]:
    votes_CV = np.zeros((clusters, len(SIGNS)))
    members = np.flatnonzero(labels >= 0)
    number_of = np.array([SIGNS.index(sign) for sign in signs], np.int64)
    np.add.at(votes_CV, (labels[members], number_of[members]), counts[members])
    neutral = SIGNS.index("neutral")
    # A neutral sentence takes no side and abstains, unless the whole cluster is about nothing else.
    mostly_neutral_C = votes_CV[:, neutral] > votes_CV.sum(1) / 2
    votes_CV[~mostly_neutral_C, neutral] = 0
    purity = votes_CV.max(1, initial=0) / np.maximum(votes_CV.sum(1), 1)
    leading = votes_CV.argmax(1) if clusters else np.zeros(0, int)
    return [SIGNS[v] if p >= min_purity else "mixed" for v, p in zip(leading, purity, strict=True)], purity


@dataclass(frozen=True)
class Donors:
    """Sentences of one cluster that deny the same things."""

    signature: guard.Signature
    members: tuple[int, ...]  # sentence numbers, ascending


@dataclass(frozen=True)
class Knowledge:
    """What a writer needs. Sentence numbers and cluster ids are those of the findings section.

    label_of: sentence key -> cluster id (-1: noise). forward[u]: bit set of c with u -> c. linked[c]: bit set of
    clusters that c may stand beside in a valid set. donors[c]: empty for clusters that may not be added.
    addable: bit set. veto[u]: bit set of c that u speaks against. arc_of: (u, c) -> row of `arcs`.
    """

    language: str
    policy: Policy
    keys: list[str]
    texts: list[str]
    label_of: dict[str, int]
    members: list[tuple[int, ...]]
    cluster_signs: list[str]
    purity: npt.NDArray[np.float64]
    medoids: npt.NDArray[np.int64]
    donors: list[tuple[Donors, ...]]
    addable: int
    veto: list[int]
    forward: list[int]
    linked: list[int]
    arcs: Arcs
    arc_of: dict[tuple[int, int], int]


def learn(findings: SectionFit, impression: SectionFit, config: EnrichConfig, language: str) -> Knowledge:
    """Build the co-occurrence graph over studies and gather each addable cluster's donors."""
    policy = POLICIES[config.policy]
    section, labels = findings.section, findings.labels
    clusters = len(findings.cluster_signs)
    members = [tuple(own.tolist()) for own in members_of(labels, clusters)]
    donors = [
        _donors(findings, members[c], findings.cluster_signs[c], language, policy)
        if findings.cluster_signs[c] in policy.signs
        else ()
        for c in range(clusters)
    ]
    addable_C = np.array([bool(group) for group in donors], bool)
    pairs = section.pairs[labels[section.pairs[:, 1]] >= 0]
    member_SC = membership(np.column_stack([pairs[:, 0], labels[pairs[:, 1]]]), section.studies, clusters)
    opposite_CC = _opposites(member_SC, [findings, impression], donors, language)
    arcs = build_arcs(member_SC, addable_C, config.graph.min_share, config.graph.min_support, opposite_CC)
    held_C = np.asarray(member_SC.sum(0)).ravel()
    forward, backward = [0] * clusters, [0] * clusters
    for source, target in zip(arcs.source.tolist(), arcs.target.tolist(), strict=True):
        forward[source] |= 1 << target
        backward[target] |= 1 << source
    least = 0.0 if policy.all_veto else config.graph.veto_expected
    could_CC = np.outer(held_C, held_C) >= least * section.studies
    veto = [as_bits(np.flatnonzero(could_CC[u] & addable_C).tolist()) & ~forward[u] for u in range(clusters)]
    linked = [f & b if policy.both_ways else f | b for f, b in zip(forward, backward, strict=True)]
    return Knowledge(
        language=language,
        policy=policy,
        keys=section.keys,
        texts=section.texts,
        label_of=dict(zip(section.keys, labels.tolist(), strict=True)),
        members=members,
        cluster_signs=findings.cluster_signs,
        purity=findings.purity,
        medoids=findings.medoids,
        donors=donors,
        addable=as_bits(np.flatnonzero(addable_C).tolist()),
        veto=veto,
        forward=forward,
        linked=linked,
        arcs=arcs,
        arc_of={pair: row for row, pair in enumerate(zip(arcs.source.tolist(), arcs.target.tolist(), strict=True))},
    )


def _donors(fit: SectionFit, members: tuple[int, ...], sign: str, language: str, policy: Policy) -> tuple[Donors, ...]:
    """The members that may be donated, grouped by what they deny; groups in order of their first member."""
    own = {
        number: guard.signature(fit.section.keys[number], language) for number in members if fit.signs[number] == sign
    }
    said = _shares(own, fit.section.counts)
    groups: dict[guard.Signature, list[int]] = {}
    for number, signature in own.items():
        if policy.guard:
            judgement, _ = guard.judged(fit.section.keys[number], language)
            # The graph vouches for what the cluster says, not for what one of its sentences says besides.
            typical = all(said[denial[0]] >= policy.min_typical for denial in signature.denials)
            if guard.unfit(judgement, finished(fit.section.texts[number])) or not typical:
                continue
        groups.setdefault(signature, []).append(number)
    return tuple(Donors(signature, tuple(numbers)) for signature, numbers in groups.items())


def _shares(signatures: dict[int, guard.Signature], counts: npt.NDArray[np.int32]) -> dict[str, float]:
    """Share of a cluster's occurrences that deny each finding."""
    total, denied = 0, dict[str, int]()
    for number, signature in signatures.items():
        total += int(counts[number])
        for finding in {denial[0] for denial in signature.denials}:
            denied[finding] = denied.get(finding, 0) + int(counts[number])
    return {finding: count / total for finding, count in denied.items()}


def _opposites(
    member_SC: sparse.csr_array, fits: list[SectionFit], donors: list[tuple[Donors, ...]], language: str
) -> npt.NDArray[np.int32]:
    """Studies that hold u and assert, in either section, what c's commonest donors deny, int32 [C, C].

    By kinds of claims and of clashes: a cell for each study and cluster would be hundreds of millions of them at a
    million reports.
    """
    clash_C = [max(group, key=lambda d: len(d.members)).signature.clash if group else 0 for group in donors]
    clashes = list(dict.fromkeys(clash_C))
    heard = functools.reduce(operator.or_, clashes, 0)
    asserted = [0] * fits[0].section.studies
    for fit in fits:
        claims = [guard.judged(key, language)[1].asserted & heard for key in fit.section.keys]
        for study, key in fit.section.pairs.tolist():
            asserted[study] |= claims[key]
    kinds = {claims: kind for kind, claims in enumerate(dict.fromkeys(asserted))}
    kind_S = np.array([kinds[claims] for claims in asserted], np.int64)
    ones = np.ones(len(kind_S), np.int32)
    kind_SK = sparse.csr_array((ones, (np.arange(len(kind_S)), kind_S)), shape=(len(kind_S), len(kinds)))
    clash_KD = np.array([[bool(clash & claims) for clash in clashes] for claims in kinds], np.int32)
    count_CD = (member_SC.T @ kind_SK) @ clash_KD.reshape(len(kinds), len(clashes))
    place = {clash: number for number, clash in enumerate(clashes)}
    counts: npt.NDArray[np.int32] = np.asarray(count_CD, np.int32)[:, [place[clash] for clash in clash_C]]
    return counts
