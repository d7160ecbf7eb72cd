"""Can a policy be paid for saying nothing? Attacks on the reward, under the paper's cluster F1 and the strict one.

    python benchmarks/reward_attacks.py [--reports 400]

Held-out OpenI reports are the references. The honest policy sees the study and writes in its own words: of the
reference's sentences it leaves out a quarter and rewords half of the others by rule, shuffles them, and adds one
sentence of another patient's report, the one whose human MeSH codes agree best. Each attack changes its completion, or
writes another one, and is held against the honest completions of the same studies:

    worth = mean reward of the attack / mean reward of the honest completions

Intervals are over patients. It fails unless each attack is worth less under the strict reward than under the paper's,
with the whole interval of the difference below 0; or worth nothing under the strict reward (its interval ends below
0.02), as an empty report is under any. "looked_up" is the mean reward of the other patient's report alone.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from common import report
from reward_common import RESAMPLES, drawn, held_out, interval, negated, reward_model, reworded, sentences, side_flipped

from raymedlt.alignment.rewards import Reference, RewardModel, cluster_f1, cluster_f1_strict, cluster_f1_weighted
from raymedlt.evaluation.findings import claims_of, groups
from raymedlt.evaluation.paired import Score, difference
from raymedlt.evaluation.paired import interval as interval_of
from raymedlt.finetuning.texts import target_text
from raymedlt.reports.assertion import judge
from raymedlt.reports.sentences import sentence_key
from raymedlt.resampling import Patients

Written = tuple[list[str], list[str]]
REWARDS = {"paper": cluster_f1, "strict": cluster_f1_strict, "weighted": cluster_f1_weighted}
ADDED = 5  # sentences per section
LEFT_OUT, REWORDED = 0.25, 0.5
WORTHLESS = 0.02  # times the honest reward
KINDS = {
    "novel": "five sentences more per section that no training report has, from other held-out reports",
    "repeated": "every sentence three times",
    "boilerplate": "the commonest normal sentences, the same for every study; where the reference claims a finding",
    "every_cluster": "the medoid sentence of every cluster",
    "empty": "both sections empty",
    "negation": "every sentence that a rule can turn round, turned round; the others as they are",
    "negation_of_reference": "the reference's sentences turned round, and nothing else",
    "both_ways": "every sentence and its opposite",
    "hedging": "'possible ...' more, for every finding there is",
    "neutral_padding": "five sentences more per section that claim nothing, from training reports",
    "sides_flipped": "left and right exchanged, where the completion names a side",
}


class Attacker:
    """Writes the attacks; knows the training reports, the clusters and the other references."""

    def __init__(self, model: RewardModel, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
        self._model = model
        counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        for row in train:
            for count, said in zip(counts, sentences(row), strict=True):
                count.update(said)
        known = {sentence_key(each) for count in counts for each in count}
        self._boilerplate = [_commonest(counts[0], "normal", 6), _commonest(counts[1], "normal", 1)]
        self._neutral = sorted(each for count in counts for each in count if judge(each).sign == "neutral")
        self._novel = sorted({each for row in test for said in sentences(row) for each in said
                              if sentence_key(each) not in known})  # fmt: skip
        self._medoids = [[each.keys[number] + "." for number in each.medoids] for each in model.models.values()]
        self._hedges = [f"Possible {name.replace('_', ' ')}." for name in groups()]

    def write(self, kind: str, row: dict[str, Any], honest: Written) -> Written | None:
        """The attack on one study; None where it doesn't apply."""
        rng, reference = drawn(kind, row["report_id"]), sentences(row)
        own = {sentence_key(each) for said in reference for each in said}
        attacks: dict[str, Callable[[], Any]] = {
            "novel": lambda: [
                said + rng.sample([each for each in self._novel if sentence_key(each) not in own], ADDED)
                for said in honest
            ],
            "repeated": lambda: [3 * said for said in honest],
            "boilerplate": lambda: self._boilerplate,
            "every_cluster": lambda: self._medoids,
            "empty": lambda: [[], []],
            "negation": lambda: [[negated(each) or each for each in said] for said in honest],
            "negation_of_reference": lambda: [
                [turned for each in said if (turned := negated(each))] for said in reference
            ],
            "both_ways": lambda: [[text for each in said for text in (each, negated(each)) if text] for said in honest],
            "hedging": lambda: [said + self._hedges for said in honest],
            "neutral_padding": lambda: [said + rng.sample(self._neutral, ADDED) for said in honest],
            "sides_flipped": lambda: [[side_flipped(each) or each for each in said] for said in honest],
        }
        if kind == "boilerplate" and not claims_of(row["findings"] + "\n\n" + row["impression"]).present:
            return None
        written = attacks[kind]()
        if kind == "sides_flipped" and written == list(honest):
            return None
        return written[0], written[1]


def _commonest(counts: Counter[str], sign: str, number: int) -> list[str]:
    """The commonest sentences of a sign, none of which says the same as one before."""
    found: dict[Any, str] = {}
    for sentence, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        judged = judge(sentence)
        if judged.sign == sign:
            found.setdefault(frozenset(each.finding for each in judged.mentions), sentence)
        if len(found) == number:
            break
    return list(found.values())


def looked_up(row: dict[str, Any], train: list[dict[str, Any]]) -> Written:
    """The training report whose MeSH codes agree best (Jaccard; ties drawn)."""
    labels = set(row["labels"])
    agreement = [len(labels & set(each["labels"])) / max(1, len(labels | set(each["labels"]))) for each in train]
    best = max(agreement)
    chosen = drawn("similar", row["report_id"]).choice([n for n, each in enumerate(agreement) if each == best])
    return sentences(train[chosen])


def honestly(row: dict[str, Any], similar: Written) -> Written:
    """The honest completion."""
    rng = drawn("honest", row["report_id"])
    written: list[list[str]] = []
    for own, other in zip(sentences(row), similar, strict=True):
        kept = [each for each in own if rng.random() >= LEFT_OUT] or own[:1]
        said = [reworded(each) if rng.random() < REWORDED else each for each in kept] + rng.sample(other, 1)
        written.append(list({sentence_key(each): each for each in rng.sample(said, len(said))}.values()))
    return written[0], written[1]


def worth(attack: list[Any], honest: list[Any]) -> Score:
    """Sum of the attack's rewards over the sum of the honest ones."""
    return Score(np.asarray([attack, honest], np.float64).T, lambda sums: sums[..., 0] / sums[..., 1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=400, help="held-out reports (all: 1000)")
    arguments = parser.parse_args()
    train, test = held_out()
    model = reward_model(train)
    learnt = [row for row in train.to_pylist() if row["findings"] and row["impression"]]
    rows = sorted(test.to_pylist(), key=lambda row: drawn("report", row["report_id"]).random())[: arguments.reports]
    attacker = Attacker(model, learnt, test.to_pylist())
    similar = [looked_up(row, learnt) for row in rows]
    honest = [honestly(*each) for each in zip(rows, similar, strict=True)]

    def rewards(written: list[Written], which: list[int]) -> dict[str, list[Any]]:
        texts = [target_text(" ".join(each[0]), " ".join(each[1]), "think_answer") for each in written]
        references = [Reference(rows[n]["findings"], rows[n]["impression"]) for n in which]
        return {name: list(reward(texts, references, model)) for name, reward in REWARDS.items()}

    fair, imitated = (rewards(each, list(range(len(rows)))) for each in (honest, similar))
    table: dict[str, Any] = {}
    for kind, words in KINDS.items():
        attacks = [attacker.write(kind, row, said) for row, said in zip(rows, honest, strict=True)]
        which = [number for number, written in enumerate(attacks) if written is not None]
        got = rewards([attacks[number] for number in which], which)
        patients = Patients.of([rows[number]["patient_id"] for number in which])
        scores = {name: worth(got[name], [fair[name][number] for number in which]) for name in REWARDS}
        lower = difference(scores["strict"], scores["paper"], patients, resamples=RESAMPLES, seed=0)
        worths = {
            name: interval(interval_of(each, patients, resamples=RESAMPLES, seed=0)) for name, each in scores.items()
        }
        table[kind] = {
            "what": words,
            "reports": len(which),
            "worth": worths,
            "strict - paper": interval(lower),
            "met": lower.high < 0 or worths["strict"][2] < WORTHLESS,
        }
    report(
        "reward_attacks",
        {
            "references": len(rows),
            "looked_up": {name: round(float(np.mean(each)), 4) for name, each in imitated.items()},
            "honest": {name: round(float(np.mean(each)), 4) for name, each in fair.items()},
            "attacks": table,
            "attacks worth more than honesty": {
                name: [kind for kind, each in table.items() if each["worth"][name][0] > 1] for name in REWARDS
            },
            "met": all(each["met"] for each in table.values()),
        },
    )  # fmt: skip
    return 0 if all(each["met"] for each in table.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
