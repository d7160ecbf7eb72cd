"""How often does an offered addition contradict the report's human MeSH codes, and how many reports get one?

    python benchmarks/enrichment_contradiction.py [any key of jobs/enrich.py]

An offer is a cluster that may be added to a report; the sentence judged is a donor drawn as the job draws it. Beside
the guarded offers: the same offers without the guard, and the human floor, the reports' own normal sentences under the
same judge. The judge (mesh_judge.py) never sees raymedlt's assertion engine, and enrichment never sees the codes.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import sys

from common import openi_reports, remembering, report, share
from mesh_judge import contradictions, denied

from raymedlt.config import EnrichConfig
from raymedlt.enrichment import guard
from raymedlt.enrichment.knowledge import Knowledge
from raymedlt.enrichment.memory import fit
from raymedlt.enrichment.writing import offer, report_claims
from raymedlt.parsing import parse
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.seeds import keyed_seed


class Tally:
    """Sentences judged against codes."""

    def __init__(self) -> None:
        self.all = self.checkable = self.contradicting = self.reports = self.covered = 0
        self.kinds: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, sentence: str, codes: list[str]) -> None:
        self.all += 1
        self.checkable += bool(denied(sentence))
        found = contradictions(sentence, codes)
        self.contradicting += bool(found)
        self.kinds.update({(name, code.split("/")[0]) for name, code in found})

    def figures(self) -> dict[str, object]:
        return {
            "sentences": self.all,
            "checkable": self.checkable,
            "contradicting": self.contradicting,
            "contradicting_of_all": share(self.contradicting, self.all),
            "contradicting_of_checkable": share(self.contradicting, self.checkable),
            "commonest": [f"{n} x {denial} / {code}" for (denial, code), n in self.kinds.most_common(8)],
        }


def offers(knowledge: Knowledge, reports: list[dict[str, object]], seed: int) -> Tally:
    """Judge one drawn donor for each cluster offered to each report with findings."""
    tally = Tally()
    for row in reports:
        keys = [sentence_key(sentence) for sentence in split_sentences(row["findings"])]
        if not keys:
            continue
        tally.reports += 1
        claims = report_claims(keys, row["impression"], row["indication"], knowledge.language)
        found = offer(knowledge, keys, claims)
        tally.covered += bool(found.passing)
        for c, groups in found.passing.items():
            rng = random.Random(keyed_seed(seed, row["report_id"], c))
            number = rng.choice(sorted(number for group in groups for number in group.members))
            tally.add(knowledge.texts[number], row["labels"])
    return tally


def human_floor(reports: list[dict[str, object]], language: str) -> Tally:
    """The reports' own normal findings sentences, judged against their own codes."""
    tally = Tally()
    for row in reports:
        for sentence in split_sentences(row["findings"]):
            if guard.judged(sentence_key(sentence), language)[0].sign == "normal":
                tally.add(sentence, row["labels"])
    return tally


def main() -> None:
    config = parse(EnrichConfig, sys.argv[1:], "python benchmarks/enrichment_contradiction.py")
    table = openi_reports()
    knowledge, _ = fit(table, config, remembering(config))
    reports = table.to_pylist()
    guarded = offers(knowledge, reports, config.seed)
    open_policy = dataclasses.replace(knowledge.policy, guard=False)
    unguarded = offers(dataclasses.replace(knowledge, policy=open_policy), reports, config.seed)
    figures = {
        name: {"coverage": share(tally.covered, tally.reports), **tally.figures()}
        for name, tally in (("guarded", guarded), ("unguarded", unguarded))
    }
    report("enrichment_contradiction", {**figures, "human_floor": human_floor(reports, "en").figures()})


if __name__ == "__main__":
    main()
