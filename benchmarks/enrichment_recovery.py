"""Hide and recover: does enrichment offer back a normal sentence that was taken out of an unseen report?

    python benchmarks/enrichment_recovery.py [any key of jobs/enrich.py]

Clusters and graph are learnt from 4/5 of the patients (by a hash of the id); the reports of the rest are scored. Each
normal findings sentence whose cluster may be added is hidden in turn. Recovered: its cluster is offered, or is refused
only because the rest of the report says the same already. Both shares are printed.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import openi_reports, remembering, report, share

from raymedlt.config import EnrichConfig, parse
from raymedlt.enrichment import guard
from raymedlt.enrichment.corpus import sentences_of
from raymedlt.enrichment.knowledge import Knowledge, SectionFit, second_chances
from raymedlt.enrichment.memory import fit
from raymedlt.enrichment.writing import offer, report_claims
from raymedlt.reports.sentences import sentence_key, split_sentences

FOLDS = 5


def fold(patient_id: str) -> int:
    """0..4 by a hash of the patient id."""
    return int(hashlib.sha256(patient_id.encode()).hexdigest(), 16) % FOLDS


def with_unseen(knowledge: Knowledge, findings: SectionFit, held_out: pa.Table, config: EnrichConfig) -> Knowledge:
    """Knowledge that also places the unseen sentences of `held_out`, by the rule of the second chance."""
    rows = sentences_of(held_out)
    keys = set(rows.filter(pc.equal(rows["section"], "findings"))["sentence_key"].to_pylist())
    unseen = sorted(keys - set(knowledge.label_of))
    embed = remembering(config)
    fitted = embed(sorted(set(findings.section.keys)))
    signs = [guard.judged(key, knowledge.language)[0].sign for key in unseen]
    labels = second_chances(
        embed(unseen),
        signs,
        fitted,
        findings.clustering.labels,
        findings.cluster_signs,
        config.clustering.second_chance,
    )
    known = dict(knowledge.label_of) | dict(zip(unseen, labels.tolist(), strict=True))
    return dataclasses.replace(knowledge, label_of=known)


def score(knowledge: Knowledge, held_out: pa.Table) -> dict[str, object]:
    """Hide each eligible sentence in turn."""
    outcome: collections.Counter[str] = collections.Counter()
    for row in held_out.to_pylist():
        keys = [sentence_key(sentence) for sentence in split_sentences(row["findings"])]
        for place, key in enumerate(keys):
            c = knowledge.label_of.get(key, -1)
            normal = guard.judged(key, knowledge.language)[0].sign == "normal"
            if c < 0 or not normal or not knowledge.addable >> c & 1:
                continue
            rest = keys[:place] + keys[place + 1 :]
            if not rest:
                outcome["nothing left of the report"] += 1
                continue
            claims = report_claims(rest, row["impression"], row["indication"], knowledge.language)
            found = offer(knowledge, rest, claims)
            if c in found.passing:
                outcome["offered"] += 1
            elif found.clusters >> c & 1 or found.refused.get(c, "").startswith("restates"):
                outcome["already said"] += 1
            elif c in found.refused:
                outcome["contradicts"] += 1
            elif not found.clusters:
                outcome["rest is noise"] += 1
            else:
                outcome["not linked"] += 1
    hidden = outcome.total() - outcome["nothing left of the report"]
    recovered = outcome["offered"] + outcome["already said"]
    return {
        "hidden": hidden,
        "recovered": share(recovered, hidden),
        "offered": share(outcome["offered"], hidden),
        "already_said": share(outcome["already said"], hidden),
        "offered_or_said_of_rest": {name: share(count, hidden) for name, count in sorted(outcome.items())},
    }


def main() -> None:
    config = parse(EnrichConfig, sys.argv[1:], "python benchmarks/enrichment_recovery.py")
    table = openi_reports()
    folds = np.array([fold(patient) for patient in table["patient_id"].to_pylist()])
    fitted, held_out = table.filter(pa.array(folds != 0)), table.filter(pa.array(folds == 0))
    knowledge, fits = fit(fitted, config, remembering(config))
    knowledge = with_unseen(knowledge, fits[0], held_out, config)
    open_policy = dataclasses.replace(knowledge.policy, guard=False)
    report(
        "enrichment_recovery",
        {
            "reports_fitted": fitted.num_rows,
            "reports_scored": held_out.num_rows,
            "guarded": score(knowledge, held_out),
            "unguarded": score(dataclasses.replace(knowledge, policy=open_policy), held_out),
        },
    )


if __name__ == "__main__":
    main()
