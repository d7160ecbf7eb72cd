"""Write additions into reports: valid sets, guard, one drawn set, one drawn donor for each of its clusters.

For a report with cluster set F: V(F) = {c not in F, addable, u -> c for every u in F}. A set of additions is valid iff
every two of its members are linked; the maximal valid sets are the maximal cliques of V(F) (SemEnrich, Figure 4).
The text and image guards look first, so that a refused cluster never narrows what else may be added. The NLI guard is
slow and looks at drawn sentences only; where it refuses one, another of its cluster is drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raymedlt import __version__
from raymedlt.config import EnrichConfig
from raymedlt.enrichment import guard
from raymedlt.enrichment.cliques import bits, maximal_cliques
from raymedlt.enrichment.guard import report_claims
from raymedlt.enrichment.guard.image import PASSED, ImageGuard
from raymedlt.enrichment.guard.nli import CONTRADICTION, Reader, Wishes
from raymedlt.enrichment.guard.second import OFF, SecondGuards, second_guards
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.offers import ImageVerdict, Offer, offer
from raymedlt.enrichment.text import append, finished
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import ADDITIONS, ENRICHED, REFUSALS, TRAIN
from raymedlt.seeds import keyed_seed

__all__ = ["Offer", "Written", "offer", "report_claims", "write_reports"]

NO_FINDINGS, OTHER_SPLIT, HAS_NOISE, ALL_NOISE = "no findings", "not training", "unclustered sentence", "no cluster"
OTHER_LANGUAGE = "another language"
NOTHING_FITS, ALL_REFUSED, CONTROL_NONE = "nothing goes with all of its findings", "guard refused all", "control"
NLI_REFUSAL = f"nli:{CONTRADICTION}"
SAME_TEXT = "drew its own sentences"  # the control "paraphrase" only


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


def write_reports(
    knowledge: Knowledge, reports: pa.Table, config: EnrichConfig, second: SecondGuards | None = None
) -> Written:
    """Enrich `reports` (schema.REPORTS). Rows come out sorted by report id, variant, position.

    A report's additions depend on the knowledge, the seed, the report and the files of the second guards alone: not on
    its neighbours in the table. With the NLI guard every report is drawn twice: once to see which pairs of sentences
    will be asked for, so that the model reads them in large batches, and once with the answers.

    Args:
        second: the second guards; default what `config.guard` names.

    Raises:
        ConfigError, InputError: a second guard can't be loaded.
    """
    second = second or second_guards(config.guard)
    rows_in = sorted(reports.to_pylist(), key=lambda row: str(row["report_id"]))
    if second.nli is not None:
        wishes = Wishes()
        _write_all(_Writer(knowledge, config, wishes, second.image), rows_in)
        second.nli.compute(wishes.pairs)
    writer = _Writer(knowledge, config, second.nli, second.image)
    _write_all(writer, rows_in)
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


@dataclass(frozen=True)
class _Source:
    """One report as the guards see it."""

    report_id: str
    claims: guard.Claims
    premises: tuple[str, ...]  # keys of its sentences, for the NLI guard
    image: ImageVerdict | None
    by_nli: set[int] = field(default_factory=set)  # clusters of which the NLI guard refused every sentence tried


def _write_all(writer: _Writer, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        writer.write(row)


class _Writer:
    def __init__(
        self, knowledge: Knowledge, config: EnrichConfig, nli: Reader | None, image: ImageGuard | None
    ) -> None:
        self.knowledge, self.config = knowledge, config
        self.nli = nli if knowledge.policy.guard else None
        self.image = image if knowledge.policy.guard else None
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
        source = _Source(row["report_id"], guard.Claims(), (), None)
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
            source = self._read(row, keys)
            found = offer(self.knowledge, keys, source.claims, source.image)
            why = self._why_nothing(found)
            self._refuse(row["report_id"], found.refused)
        self.offered += len(found.passing)
        self.cut_off += not why and not self._valid_sets(found.offered)[1]
        for variant in range(self.config.variants):
            seed = keyed_seed(self.config.seed, row["report_id"], variant)
            picks = [] if why else self._draw(found, random.Random(seed), source)
            unchanged = why or ("" if picks else ALL_REFUSED)
            if self.config.control == "random":
                picks = self._random_instead(len(picks), random.Random(seed))
            text = append(row["findings"], [self.knowledge.texts[number] for _, number in picks])
            self._emit(row, variant, text, len(picks), unchanged)
            for position, (c, number) in enumerate(picks):
                self._provenance(source, variant, position, c, number, found, picks, seed)
        if source.by_nli:
            self._refuse(row["report_id"], dict.fromkeys(sorted(source.by_nli), NLI_REFUSAL))

    def _read(self, row: dict[str, Any], keys: list[str]) -> _Source:
        """A report as the guards see it."""
        claims = report_claims(keys, row["impression"], row["indication"], self.knowledge.language, row["views"])
        premises: tuple[str, ...] = ()
        if self.nli is not None:
            premises = tuple(sorted({*keys, *map(sentence_key, split_sentences(row["impression"]))}))
        look = self.image
        image = None if look is None else lambda donor: look.verdict((denial[0] for denial in donor.denials), row)
        return _Source(row["report_id"], claims, premises, image)

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

    def _refuse(self, report_id: str, refused: dict[int, str]) -> None:
        for c, reason in refused.items():
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

    def _draw(self, found: Offer, rng: random.Random, source: _Source) -> list[tuple[int, int]]:
        """One maximal valid set, uniformly; then a donor for each cluster, uniformly. Strongest support first."""
        sets, _ = self._valid_sets(found.offered)
        chosen = sorted(bits(rng.choice(sets)), key=lambda c: (-self._evidence(found, c)[0], c))
        picks: list[tuple[int, int]] = []
        said = source.claims
        for c in chosen:
            groups = found.passing[c]
            if self.knowledge.policy.guard:
                # What was added before counts as said: two additions never say the same.
                groups = tuple(group for group in groups if guard.refusal(group.signature, said) is None)
            numbers = sorted(number for group in groups for number in group.members)
            if not numbers:
                continue
            number = self._choose(numbers, rng, source)
            if number is None:
                source.by_nli.add(c)
                continue
            picks.append((c, number))
            said |= guard.judged(self.knowledge.keys[number], self.knowledge.language)[1]
            if len(picks) == self.config.writing.max_added:
                break
        return picks

    def _choose(self, numbers: list[int], rng: random.Random, source: _Source) -> int | None:
        """One of the sentences, uniformly, that the NLI guard lets pass; None if it refused all that may be tried."""
        for _ in range(min(len(numbers), self.config.guard.nli_tries)):
            number = rng.choice(numbers)
            if self.nli is None or self._contradiction(source, number) < self.config.guard.nli_threshold:
                return number
            numbers.remove(number)
        return None

    def _contradiction(self, source: _Source, number: int) -> float:
        return 0.0 if self.nli is None else self.nli.probability(source.premises, self.knowledge.keys[number])

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
        source: _Source,
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
            "report_id": source.report_id,
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
            "guard": PASSED if guarded else OFF,
            "guard_nli": self._contradiction(source, number) if guarded and self.nli is not None else None,
            "guard_image": source.image(self._signature(number)) if guarded and source.image is not None else OFF,
            "witness": self._witness(found, c, picks),
            "seed": seed,
            "version": __version__,
        }
        for name in ADDITIONS.names:
            self.rows.additions[name].append(values[name])

    def _signature(self, number: int) -> guard.Signature:
        return guard.signature(self.knowledge.keys[number], self.knowledge.language)
