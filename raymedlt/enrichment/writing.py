"""Write additions into reports: valid sets, guard, one drawn set, one drawn donor for each of its clusters.

For a report with cluster set F: V(F) = {c not in F, addable, u -> c for every u in F}. A set of additions is valid iff
every two of its members are linked; the maximal valid sets are the maximal cliques of V(F) (SemEnrich, Figure 4). The
guard looks first, so that a refused cluster never narrows what else may be added.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raymedlt import __version__
from raymedlt.config import EnrichConfig
from raymedlt.enrichment import guard
from raymedlt.enrichment.cliques import as_bits, bits, maximal_cliques
from raymedlt.enrichment.knowledge import Donors, Knowledge
from raymedlt.enrichment.text import append, finished
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import ADDITIONS, ENRICHED, REFUSALS, TRAIN
from raymedlt.seeds import keyed_seed

NO_FINDINGS, OTHER_SPLIT, HAS_NOISE, ALL_NOISE = "no findings", "not training", "unclustered sentence", "no cluster"
OTHER_LANGUAGE = "another language"
NOTHING_FITS, ALL_REFUSED, CONTROL_NONE = "nothing goes with all of its findings", "guard refused all", "control"
SAME_TEXT = "drew its own sentences"  # the control "paraphrase" only


@dataclass(frozen=True)
class Offer:
    """What may be added to one report. passing[c]: donor groups of cluster c that the guard let through."""

    clusters: int  # F, as a bit set
    noise: int  # unclustered sentences
    passing: dict[int, tuple[Donors, ...]]
    refused: dict[int, str]  # cluster -> reason

    @property
    def offered(self) -> int:
        """Bit set of the clusters that passed."""
        return as_bits(self.passing)


def report_claims(findings_keys: list[str], impression: str, indication: str, language: str) -> guard.Claims:
    """What a whole report says: findings (as keys), impression and indication (as text)."""
    claims = guard.Claims()
    for key in [*findings_keys, *map(sentence_key, split_sentences(impression))]:
        claims |= guard.judged(key, language)[1]
    for sentence in split_sentences(indication):
        claims |= guard.indication_claims(sentence_key(sentence), language)
    return claims


def offer(knowledge: Knowledge, findings_keys: list[str], claims: guard.Claims) -> Offer:
    """V(F) of a report, passed through the guard.

    Args:
        findings_keys: keys of the report's findings sentences; keys that were never fitted count as noise.
        claims: what the whole report says (`report_claims`).
    """
    labels = [knowledge.label_of.get(key, -1) for key in findings_keys]
    clusters, noise = 0, 0
    for label in labels:
        if label < 0:
            noise += 1
        else:
            clusters |= 1 << label
    if not clusters or (noise and knowledge.policy.skip_noise):
        return Offer(clusters, noise, {}, {})
    vouched, vetoed = 0, 0
    for u in bits(clusters):
        vouched |= knowledge.forward[u]
        vetoed |= knowledge.veto[u]
    valid = vouched & ~vetoed & knowledge.addable & ~clusters
    passing: dict[int, tuple[Donors, ...]] = {}
    refused: dict[int, str] = {}
    for c in bits(valid):
        groups = knowledge.donors[c]
        if not knowledge.policy.guard:
            passing[c] = groups
            continue
        reasons = [guard.refusal(group.signature, claims) for group in groups]
        if passed := tuple(group for group, reason in zip(groups, reasons, strict=True) if reason is None):
            passing[c] = passed
        else:
            largest = max(range(len(groups)), key=lambda i: (len(groups[i].members), -i))
            refused[c] = str(reasons[largest])
    return Offer(clusters, noise, passing, refused)


@dataclass
class Written:
    """Tables of one shard, and counts for the run report."""

    enriched: pa.Table
    additions: pa.Table
    refusals: pa.Table
    summary: dict[str, Any]


@dataclass
class _Rows:
    enriched: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in ENRICHED.names})
    additions: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in ADDITIONS.names})
    refusals: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in REFUSALS.names})


def write_reports(knowledge: Knowledge, reports: pa.Table, config: EnrichConfig) -> Written:
    """Enrich `reports` (schema.REPORTS). Rows come out sorted by report id, variant, position.

    A report's additions depend on the knowledge, the seed and the report alone: not on its neighbours in the table.
    """
    writer = _Writer(knowledge, config)
    for row in sorted(reports.to_pylist(), key=lambda row: str(row["report_id"])):
        writer.write(row)
    rows = writer.rows
    summary = {
        "reports": reports.num_rows,
        "with_findings": writer.with_findings,
        "enriched": writer.enriched,
        "offered": writer.offered,
        "cut_off": writer.cut_off,
        "unchanged": dict(sorted(writer.unchanged.items())),
        "added": dict(sorted(writer.added.items())),
        "refused": dict(sorted(writer.refused.items())),
    }
    return Written(
        pa.table(rows.enriched, schema=ENRICHED),
        pa.table(rows.additions, schema=ADDITIONS),
        pa.table(rows.refusals, schema=REFUSALS),
        summary,
    )


class _Writer:
    def __init__(self, knowledge: Knowledge, config: EnrichConfig) -> None:
        self.knowledge, self.config = knowledge, config
        self.rows = _Rows()
        self.cliques: dict[int, tuple[list[int], bool]] = {}
        self.with_findings = self.enriched = self.offered = self.cut_off = 0
        self.unchanged: dict[str, int] = {}
        self.added: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def write(self, row: dict[str, Any]) -> None:
        """Enrich one report, once per variant."""
        keys = [sentence_key(sentence) for sentence in split_sentences(row["findings"])]
        why = ""
        found = Offer(0, 0, {}, {})
        claims = guard.Claims()
        if not keys:
            why = NO_FINDINGS
        elif row["split"] != TRAIN:
            why = OTHER_SPLIT
        elif row["language"] != self.knowledge.language:
            why = OTHER_LANGUAGE  # the guard could not read it, and the donors are of the knowledge's language
        elif self.config.control == "none":
            why = CONTROL_NONE
        else:
            self.with_findings += 1
            if self.config.control == "paraphrase":
                self._write_paraphrases(row)
                return
            claims = report_claims(keys, row["impression"], row["indication"], self.knowledge.language)
            found = offer(self.knowledge, keys, claims)
            why = self._why_nothing(found)
            self._refuse(row["report_id"], found)
        self.offered += len(found.passing)
        self.cut_off += not why and not self._valid_sets(found.offered)[1]
        for variant in range(self.config.variants):
            seed = keyed_seed(self.config.seed, row["report_id"], variant)
            picks = [] if why else self._draw(found, random.Random(seed), claims)
            if self.config.control == "random":
                picks = self._random_instead(len(picks), random.Random(seed))
            text = append(row["findings"], [self.knowledge.texts[number] for _, number in picks])
            self._emit(row, variant, text, len(picks), why)
            for position, (c, number) in enumerate(picks):
                self._provenance(row["report_id"], variant, position, c, number, found, picks, seed)

    def _write_paraphrases(self, row: dict[str, Any]) -> None:
        """The control "paraphrase": every clustered sentence becomes a random member of its own cluster."""
        sentences = split_sentences(row["findings"])
        labels = [self.knowledge.label_of.get(sentence_key(sentence), -1) for sentence in sentences]
        for variant in range(self.config.variants):
            if max(labels) < 0:
                self._emit(row, variant, row["findings"], 0, ALL_NOISE)
                continue
            rng = random.Random(keyed_seed(self.config.seed, row["report_id"], variant))
            replaced = [
                sentence if label < 0 else self.knowledge.texts[rng.choice(self.knowledge.members[label])]
                for sentence, label in zip(sentences, labels, strict=True)
            ]
            self._emit(row, variant, " ".join(map(finished, replaced)), 0, SAME_TEXT)

    def _why_nothing(self, found: Offer) -> str:
        if found.noise and self.knowledge.policy.skip_noise:
            return HAS_NOISE
        if not found.clusters:
            return ALL_NOISE
        if not found.passing:
            return ALL_REFUSED if found.refused else NOTHING_FITS
        return ""

    def _refuse(self, report_id: str, found: Offer) -> None:
        for c, reason in found.refused.items():
            kind = reason.split(":")[0]
            self.refused[kind] = self.refused.get(kind, 0) + 1
            self._refusal(report_id, c, reason)

    def _refusal(self, report_id: str, c: int, reason: str) -> None:
        medoid = self.knowledge.keys[self.knowledge.medoids[c]]
        for name, value in zip(REFUSALS.names, (report_id, c, medoid, reason), strict=True):
            self.rows.refusals[name].append(value)

    def _valid_sets(self, offered: int) -> tuple[list[int], bool]:
        """Maximal valid sets among the offered clusters, and whether all are listed; remembered."""
        if offered not in self.cliques:
            self.cliques[offered] = maximal_cliques(self.knowledge.linked, offered, self.config.writing.max_cliques)
        return self.cliques[offered]

    def _draw(self, found: Offer, rng: random.Random, claims: guard.Claims) -> list[tuple[int, int]]:
        """One maximal valid set, uniformly; then a donor for each cluster, uniformly. Strongest support first."""
        sets, _ = self._valid_sets(found.offered)
        chosen = sorted(bits(rng.choice(sets)), key=lambda c: (-self._evidence(found, c)[0], c))
        picks: list[tuple[int, int]] = []
        said = claims
        for c in chosen:
            groups = found.passing[c]
            if self.knowledge.policy.guard:
                # What was added before counts as said: two additions never say the same.
                groups = tuple(group for group in groups if guard.refusal(group.signature, said) is None)
            numbers = sorted(number for group in groups for number in group.members)
            if not numbers:
                continue
            number = rng.choice(numbers)
            picks.append((c, number))
            said |= guard.judged(self.knowledge.keys[number], self.knowledge.language)[1]
            if len(picks) == self.config.writing.max_added:
                break
        return picks

    def _random_instead(self, count: int, rng: random.Random) -> list[tuple[int, int]]:
        """The control "random": as many sentences, from random clusters of any sign."""
        count = min(count, len(self.knowledge.members))
        chosen = rng.sample(range(len(self.knowledge.members)), count)
        return [(c, rng.choice(self.knowledge.members[c])) for c in chosen]

    def _count(self, why: str, added: int, variant: int) -> None:
        if variant:
            return
        if why:
            self.unchanged[why] = self.unchanged.get(why, 0) + 1
        else:
            self.enriched += 1
            self.added[str(added)] = self.added.get(str(added), 0) + 1

    def _emit(self, row: dict[str, Any], variant: int, text: str, added: int, why: str) -> None:
        """One row of `enriched`. why: the reason where the text is unchanged."""
        changed = text != row["findings"]
        why = "" if changed else why
        self._count(why, added, variant)
        values = {
            **row,
            "enriched_findings": text,
            "added": added,
            "status": "enriched" if changed else "unchanged",
            "why_unchanged": why,
            "variant": variant,
        }
        for name in ENRICHED.names:
            self.rows.enriched[name].append(values[name])

    def _evidence(self, found: Offer, c: int) -> tuple[int, float, float]:
        """Weakest support, confidence and lift bound over the report's clusters."""
        arcs = self.knowledge.arcs
        rows = [self.knowledge.arc_of[u, c] for u in bits(found.clusters) if (u, c) in self.knowledge.arc_of]
        if not rows:
            return 0, 0.0, 0.0
        return (
            int(arcs.support[rows].min()),
            float(arcs.confidence[rows].min()),
            float(arcs.lift_lower[rows].min()),
        )

    def _witness(self, found: Offer, c: int, picks: list[tuple[int, int]]) -> list[int]:
        """The report's clusters that have an arc to `c`, and the other members of the drawn set."""
        vouching = {u for u in bits(found.clusters) if (u, c) in self.knowledge.arc_of}
        return sorted(vouching | {other for other, _ in picks if other != c})

    def _provenance(
        self,
        report_id: str,
        variant: int,
        position: int,
        c: int,
        number: int,
        found: Offer,
        picks: list[tuple[int, int]],
        seed: int,
    ) -> None:
        support, confidence, lift_lower = self._evidence(found, c)
        knowledge = self.knowledge
        guarded = knowledge.policy.guard and self.config.control == "semantic"
        values = {
            "report_id": report_id,
            "variant": variant,
            "position": position,
            "sentence": finished(knowledge.texts[number]),
            "sentence_key": knowledge.keys[number],
            "cluster_id": c,
            "medoid": knowledge.texts[knowledge.medoids[c]],
            "sign": knowledge.cluster_signs[c],
            "support": support,
            "confidence_min": confidence,
            "lift_lower": lift_lower,
            "purity": float(knowledge.purity[c]),
            "guard": "passed" if guarded else "off",
            "witness": self._witness(found, c, picks),
            "seed": seed,
            "version": __version__,
        }
        for name in ADDITIONS.names:
            self.rows.additions[name].append(values[name])
