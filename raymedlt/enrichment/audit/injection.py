"""Error injection: known errors, and sentences known to be true, offered to the guard as the writer would offer them.

For each of a sample of reports at most one error of every kind (errors.py) and two good sentences: a normal sentence of
the report itself, hidden from it and hence true; and, where all of the report reads as normal, a donor that its graph
offers. The guard should refuse the errors and let the good ones pass. A good sentence that is refused because the rest
of the report says the same already is no loss, and counted apart.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.enrichment import guard
from raymedlt.enrichment.audit.errors import KINDS, Injected, errors_for, may_be_added, reads_normal, strange_kinds
from raymedlt.enrichment.audit.intervals import Share
from raymedlt.enrichment.evidence import denials
from raymedlt.enrichment.guard import report_claims
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.offers import offer
from raymedlt.reports.labels import Labelled, contradicted
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import INJECTIONS
from raymedlt.seeds import keyed_seed

ERRORS_REFUSED_BAR, GOOD_REFUSED_BAR = 0.95, 0.10

OWN_NORMAL, OWN_BESIDE, GRAPH_DONOR = "own_sentence", "own_sentence_beside_findings", "graph_donor"
GOOD_KINDS = {
    OWN_NORMAL: "a normal sentence of the report, hidden from it; all other sentences read as normal too",
    OWN_BESIDE: "the same, where other sentences don't (people do write 'lungs are clear' beside a scar)",
    GRAPH_DONOR: "a donor that the graph offers, where all of the report reads as normal",
}
RESTATES = "restates"


@dataclass(frozen=True)
class Injection:
    """Offers and verdicts: `table` is schema.INJECTIONS."""

    reports: int
    table: pa.Table

    def figures(self) -> dict[str, Any]:
        """Both rates with intervals, per kind and reason."""
        rows = self.table.select(["kind", "good", "sentence", "reason"]).to_pylist()
        errors = [row for row in rows if not row["good"]]
        good = [row for row in rows if row["good"]]
        return {
            "reports": self.reports,
            "errors_refused": _refused(errors).to_json(),
            "errors_by_kind": {
                kind: _refused([row for row in errors if row["kind"] == kind]).to_json()
                for kind in KINDS
                if any(row["kind"] == kind for row in errors)
            },
            "errors_by_reason": _reasons(errors),
            "distinct_sentences": {
                kind: len({row["sentence"] for row in rows if row["kind"] == kind})
                for kind in (*KINDS, *GOOD_KINDS)
                if any(row["kind"] == kind for row in rows)
            },
            "good_refused": _lost(good).to_json(),
            "good_refused_of_all": Share(_lost(good).part, len(good)).to_json(),
            "good_restating": Share(sum(_restates(row) for row in good), len(good)).to_json(),
            "good_by_kind": {
                kind: _lost([row for row in good if row["kind"] == kind]).to_json()
                for kind in GOOD_KINDS
                if any(row["kind"] == kind for row in good)
            },
            "good_by_reason": _reasons(good),
            "bars": {"errors_refused_at_least": ERRORS_REFUSED_BAR, "good_refused_at_most": GOOD_REFUSED_BAR},
        }


def inject(
    knowledge: Knowledge,
    reports: pa.Table,
    count: int,
    seed: int,
    labelled: Mapping[str, frozenset[Labelled]] | None = None,
) -> Injection:
    """Offer errors and good sentences to `count` of the reports (drawn by seed and report id; all if there are fewer).

    Args:
        reports: schema.REPORTS; those without findings are left out.
        labelled: report id -> what its labels assert, where there are labels (contradiction.labelled): a sentence that
            the report's labels contradict doesn't count as true, though a person wrote it.

    A report's offers depend on the seed, the report, and the other reports drawn. O(sentences).
    """
    rows = reports.filter(pc.not_equal(reports["findings"], "")).sort_by("report_id")
    drawn = sorted(rows.to_pylist(), key=lambda row: keyed_seed(seed, "inject", row["report_id"]))[:count]
    drawn.sort(key=lambda row: str(row["report_id"]))
    strange = _strangers(drawn, seed)
    columns: dict[str, list[object]] = {name: [] for name in INJECTIONS.names}
    for row in drawn:
        rng = random.Random(keyed_seed(seed, "errors", row["report_id"]))
        for each, good, reason in _offers(
            knowledge, row, strange[row["report_id"]], (labelled or {}).get(row["report_id"], frozenset()), rng
        ):
            values = (row["report_id"], each.kind, good, each.finding, each.sentence, each.origin, reason)
            for name, value in zip(INJECTIONS.names, values, strict=True):
                columns[name].append(value)
    return Injection(len(drawn), pa.table(columns, schema=INJECTIONS))


def verdict(sentence: str, claims: guard.Claims, language: str) -> str:
    """Why the writer would not add `sentence` to a report that makes `claims`; "" if it would.

    The writer's own questions in its order: is the sentence normal, is it fit for any other report, does the report
    contradict or hold it.
    """
    return guard.verdict(sentence, claims, language) or ""


def _strangers(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, dict[str, list[str]]]:
    """report id -> kind -> a sentence of another patient; every distinct sentence is given to one report only.

    So the offers of a kind are as many as there are sentences of it, and not one sentence counted a thousand times.
    """
    people = [row["patient_id"] for row in rows]
    pool: dict[str, dict[str, str]] = {}  # kind -> sentence -> person
    for row, person in zip(rows, people, strict=True):
        for sentence in split_sentences(row["findings"]):
            for kind in strange_kinds(sentence):
                pool.setdefault(kind, {}).setdefault(sentence, person)
    given: dict[str, dict[str, list[str]]] = {row["report_id"]: {} for row in rows}
    for kind, found in sorted(pool.items()):
        rng = random.Random(keyed_seed(seed, "strangers", kind))
        count = min(len(rows), len(found))
        receivers, chosen = rng.sample(range(len(rows)), count), rng.sample(sorted(found.items()), count)
        for place, (sentence, person) in zip(receivers, chosen, strict=True):
            if people[place] != person:
                given[rows[place]["report_id"]][kind] = [sentence]
    return given


def _offers(
    knowledge: Knowledge,
    row: dict[str, Any],
    strange: Mapping[str, Sequence[str]],
    labels: frozenset[Labelled],
    rng: random.Random,
) -> list[tuple[Injected, bool, str]]:
    """(offer, is it good, the guard's reason)."""
    language = knowledge.language
    own = split_sentences(row["findings"])
    keys = [sentence_key(sentence) for sentence in own]
    sentences = own + split_sentences(row["impression"])
    claims = _claims(row, keys, language)
    result = [
        (error, False, verdict(error.sentence, claims, language))
        for error in errors_for(sentences, strange, language, rng)
    ]
    eligible = [
        place
        for place, key in enumerate(keys)
        if may_be_added(own[place])
        and _could_be_added(knowledge, key)
        and not contradicted(denials(key, language), labels)
    ]
    all_normal = all(map(reads_normal, sentences))
    if eligible:
        place = rng.choice(eligible)
        rest = _claims(row, keys[:place] + keys[place + 1 :], language)
        kind = OWN_NORMAL if all_normal else OWN_BESIDE
        result.append((Injected(kind, "", own[place]), True, verdict(own[place], rest, language)))
    if all_normal:
        open_knowledge = dataclasses.replace(knowledge, policy=dataclasses.replace(knowledge.policy, guard=False))
        offered = offer(open_knowledge, keys, claims).passing
        if offered:
            groups = offered[rng.choice(sorted(offered))]
            number = rng.choice(sorted(number for group in groups for number in group.members))
            text = knowledge.texts[number]
            result.append((Injected(GRAPH_DONOR, "", text), True, verdict(text, claims, language)))
    return result


def _claims(row: dict[str, Any], findings_keys: list[str], language: str) -> guard.Claims:
    return report_claims(findings_keys, row["impression"], row["indication"], language, row["views"])


def _could_be_added(knowledge: Knowledge, key: str) -> bool:
    c = knowledge.label_of.get(key, -1)
    return c >= 0 and bool(knowledge.addable >> c & 1) and guard.judged(key, knowledge.language)[0].sign == "normal"


def _restates(row: Mapping[str, Any]) -> bool:
    return str(row["reason"]).startswith(RESTATES)


def _refused(rows: Sequence[Mapping[str, Any]]) -> Share:
    return Share(sum(bool(row["reason"]) for row in rows), len(rows))


def _lost(rows: Sequence[Mapping[str, Any]]) -> Share:
    """Refused for another reason than restating, among those that don't restate."""
    new = [row for row in rows if not _restates(row)]
    return _refused(new)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """kind -> reason (passed, or the first word of the reason and for unfit the second) -> offers."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        reason = str(row["reason"]) or "passed"
        counts.setdefault(row["kind"], Counter())[reason if reason.startswith("unfit") else reason.split(":")[0]] += 1
    return {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())}
