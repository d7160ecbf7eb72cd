"""Hide and recover: does enrichment offer back a normal sentence that was taken out of an unseen report?

Clusters and graph are learnt from all parts of the patients but one (by a hash of the id); the reports of that one are
scored. Each normal findings sentence whose cluster may be added is hidden in turn. Recovered: its cluster is offered,
or is refused only because the rest of the report says the same already.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.clustering.neighbours import nearest_among
from raymedlt.config import EnrichConfig
from raymedlt.enrichment import guard
from raymedlt.enrichment.audit.intervals import Share
from raymedlt.enrichment.corpus import sentences_of
from raymedlt.enrichment.guard import report_claims
from raymedlt.enrichment.knowledge import Knowledge, SectionFit, second_chances
from raymedlt.enrichment.memory import Embed, fit
from raymedlt.enrichment.offers import offer
from raymedlt.errors import InputError
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import RECOVERY

OFFERED, SAID, ALL_NOISE, NOT_LINKED, NOTHING_LEFT = (
    "offered", "already said", "rest is noise", "not linked", "nothing left of the report",
)  # fmt: skip


@dataclass(frozen=True)
class Recovery:
    """Hidden sentences and what became of them: `table` is schema.RECOVERY, guarded and unguarded one below another."""

    fitted: int  # reports
    scored: int
    table: pa.Table

    def outcomes(self, guarded: bool = True) -> dict[str, int]:
        """Hidden sentences by outcome."""
        rows = self.table.filter(pc.equal(self.table["guarded"], guarded))
        return dict(sorted(Counter(rows["outcome"].to_pylist()).items()))

    def figures(self, guarded: bool = True) -> dict[str, Any]:
        """hidden, and the shares recovered = offered + already said."""
        outcomes = self.outcomes(guarded)
        hidden = sum(outcomes.values()) - outcomes.get(NOTHING_LEFT, 0)
        offered, said = outcomes.get(OFFERED, 0), outcomes.get(SAID, 0)
        return {
            "hidden": hidden,
            "recovered": Share(offered + said, hidden).to_json(),
            "offered": Share(offered, hidden).to_json(),
            "already_said": Share(said, hidden).to_json(),
            "outcomes": outcomes,
        }


def fold_of(person: str, folds: int) -> int:
    """0 .. folds - 1 by a hash of the patient's id."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % folds


def hide_and_recover(reports: pa.Table, config: EnrichConfig, embed: Embed, folds: int = 5) -> Recovery:
    """Learn from all folds but the first, score the first.

    Args:
        reports: schema.REPORTS; all of them count as training reports here.
        embed: sentence keys to vectors; asked for sentences of both parts.

    Raises:
        InputError: one of the two parts has no report.

    Complexity: one clustering of the fitted part, plus O(hidden sentences x clusters of a report).
    """
    part = np.array([fold_of(person, folds) for person in reports["patient_id"].to_pylist()])
    fitted, held_out = reports.filter(pa.array(part != 0)), reports.filter(pa.array(part == 0))
    if not fitted.num_rows or not held_out.num_rows:
        raise InputError(
            f"{fitted.num_rows} reports to learn from and {held_out.num_rows} to score",
            "reports of several patients",
            "leave the part 'recovery' out with --parts",
        )
    knowledge, fits = fit(fitted, config, embed)
    knowledge = with_unseen(knowledge, fits[0], held_out, config, embed)
    open_policy = dataclasses.replace(knowledge.policy, guard=False)
    tables = [score(knowledge, held_out, guarded=True)]
    tables.append(score(dataclasses.replace(knowledge, policy=open_policy), held_out, guarded=False))
    return Recovery(fitted.num_rows, held_out.num_rows, pa.concat_tables(tables))


def with_unseen(
    knowledge: Knowledge, findings: SectionFit, held_out: pa.Table, config: EnrichConfig, embed: Embed
) -> Knowledge:
    """Knowledge that also places the unseen sentences of `held_out`, by the rule of the second chance."""
    rows = sentences_of(held_out)
    keys = set(rows.filter(pc.equal(rows["section"], "findings"))["sentence_key"].to_pylist())
    unseen = sorted(keys - set(knowledge.label_of))
    if not unseen:
        return knowledge
    known_count, new = len(findings.vectors), embed(unseen)
    core = findings.clustering.labels
    asked = np.arange(known_count, known_count + len(new))
    nearest, distances = nearest_among(np.concatenate([findings.vectors, new]), asked, np.flatnonzero(core >= 0))
    labels = second_chances(
        [guard.judged(key, knowledge.language)[0].sign for key in unseen],
        nearest,
        distances,
        core,
        findings.cluster_signs,
        config.clustering.second_chance,
    )
    known = dict(knowledge.label_of) | dict(zip(unseen, labels.tolist(), strict=True))
    return dataclasses.replace(knowledge, label_of=known)


def score(knowledge: Knowledge, held_out: pa.Table, *, guarded: bool) -> pa.Table:
    """Hide each eligible sentence in turn: schema.RECOVERY."""
    columns: dict[str, list[object]] = {name: [] for name in RECOVERY.names}
    for row in held_out.to_pylist():
        keys = [sentence_key(sentence) for sentence in split_sentences(row["findings"])]
        for place, key in enumerate(keys):
            c = knowledge.label_of.get(key, -1)
            normal = guard.judged(key, knowledge.language)[0].sign == "normal"
            if c < 0 or not normal or not knowledge.addable >> c & 1:
                continue
            outcome = _outcome(knowledge, row, keys[:place] + keys[place + 1 :], c)
            values = (row["report_id"], place, key, c, guarded, outcome)
            for name, value in zip(RECOVERY.names, values, strict=True):
                columns[name].append(value)
    return pa.table(columns, schema=RECOVERY)


def _outcome(knowledge: Knowledge, row: dict[str, Any], rest: list[str], c: int) -> str:
    """What becomes of cluster `c` when only the sentences `rest` are left of the report's findings."""
    if not rest:
        return NOTHING_LEFT
    claims = report_claims(rest, row["impression"], row["indication"], knowledge.language, row["views"])
    found = offer(knowledge, rest, claims)
    if c in found.passing:
        return OFFERED
    if found.clusters >> c & 1 or found.refused.get(c, "").startswith("restates"):
        return SAID
    if c in found.refused:
        return found.refused[c].split(":")[0]  # "contradicts", "unread", ...
    return NOT_LINKED if found.clusters else ALL_NOISE
