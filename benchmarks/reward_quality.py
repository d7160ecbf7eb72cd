"""Which reward falls when a report gets worse? Rank agreement with the number of errors put in.

    python benchmarks/reward_quality.py [--reports 400]

From each held-out OpenI report five completions are made, with 0 to 4 errors. Errors are put in one after another, each
into another sentence of the findings: it is dropped, turned round, moved to the other side, or an abnormal sentence of
another patient is added; which of those that fit is drawn. Every completion says the rest with other words of its own:
sentences are shuffled, and each is reworded by a rule with probability one half, whatever the number of errors. A
policy doesn't write like its reference either; without it, counting equal sentences would be hard to beat, since every
error then is an unequal sentence: that easier test is printed too ("in the same words").

Kendall's tau-b between the number of errors and minus the reward, per report (0 where a reward gives all five the
same); means with intervals over patients. Findings only. It fails unless the strict cluster F1 is above exact F1, BLEU
and the paper's cluster F1, with the whole interval of each difference above 0.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

import numpy as np
from common import report
from reward_common import RESAMPLES, drawn, held_out, interval, negated, reward_model, reworded, sentences, side_flipped
from scipy.stats import kendalltau

from raymedlt.alignment.rewards import bleu, cluster_f1, cluster_f1_strict, cluster_f1_weighted, exact_f1, finding_f1
from raymedlt.enrichment.audit.errors import STRANGE_ABNORMAL, by_hand, strange_kinds
from raymedlt.evaluation.paired import difference, mean_score
from raymedlt.evaluation.paired import interval as interval_of
from raymedlt.resampling import Patients

REWARDS = (cluster_f1_strict, cluster_f1_weighted, cluster_f1, exact_f1, finding_f1, bleu)
BEATEN = ("cluster_f1", "exact_f1", "bleu")
ERRORS = 4
REWORDED = 0.5
DROP, TURN, FLIP, ADD = "dropped", "turned round", "other side", "added"


def worse(row: dict[str, Any], strange: list[str]) -> tuple[list[list[str]], list[str]] | None:
    """The findings with 0 to 4 errors, and the kinds of the errors; None where there is no room for so many."""
    rng = drawn("errors", row["report_id"])
    whole = sentences(row)[0]
    if len(whole) < ERRORS:
        return None
    named = {each.finding for sentence in whole for each in by_hand(sentence)}
    others = [each for each in strange if not named & {found.finding for found in by_hand(each)}]
    texts: list[str] = list(whole)
    untouched, kinds, grades = set(range(len(whole))), [], [whole]
    for _ in range(ERRORS):
        fitting = {
            DROP: sorted(untouched),
            TURN: sorted(place for place in untouched if negated(whole[place])),
            FLIP: sorted(place for place in untouched if side_flipped(whole[place])),
            ADD: [len(texts)],
        }
        kind = rng.choice(sorted(kind for kind, places in fitting.items() if places))
        place = rng.choice(fitting[kind])
        if kind == ADD:
            texts = [*texts, rng.choice(others)]
        else:
            changed = {DROP: "", TURN: negated(whole[place]), FLIP: side_flipped(whole[place])}[kind]
            texts = [*texts[:place], changed, *texts[place + 1 :]]
            untouched.remove(place)
        kinds.append(kind)
        grades.append([each for each in texts if each])
    return grades, kinds


def in_other_words(said: list[str], *keys: str | int) -> list[str]:
    """Shuffled, and every other sentence reworded."""
    rng = drawn("words", *keys)
    changed = [reworded(each) if rng.random() < REWORDED else each for each in said]
    rng.shuffle(changed)
    return changed


def tau(rewards: list[Any]) -> float:
    """Of one report's completions, in the order of their errors."""
    if len(set(rewards)) == 1:
        return 0.0
    return float(kendalltau(np.arange(len(rewards)), -np.asarray(rewards, np.float64)).statistic)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=400, help="held-out reports (all: 1000)")
    arguments = parser.parse_args()
    train, test = held_out()
    model = reward_model(train)
    rows = sorted(test.to_pylist(), key=lambda row: drawn("report", row["report_id"]).random())
    strange = sorted({each for row in rows for each in sentences(row)[0] if STRANGE_ABNORMAL in strange_kinds(each)})
    made = [(row, found) for row in rows if (found := worse(row, strange))][: arguments.reports]
    patients = Patients.of([row["patient_id"] for row, _ in made])
    references = [row["findings"] for row, _ in made for _ in range(ERRORS + 1)]
    wordings = {
        "in other words": [
            " ".join(in_other_words(grade, row["report_id"], number))
            for row, (grades, _) in made
            for number, grade in enumerate(grades)
        ],
        "in the same words": [" ".join(grade) for _, (grades, _) in made for grade in grades],
    }
    figures: dict[str, Any] = {}
    scores = {}
    for wording, completions in wordings.items():
        found: dict[str, Any] = {}
        for reward in REWARDS:
            values = np.asarray(reward(completions, references, model), np.float64).reshape(len(made), ERRORS + 1)
            scores[wording, reward.__name__] = mean_score([tau(each) for each in values.tolist()])
            found[reward.__name__] = {
                "tau": interval(interval_of(scores[wording, reward.__name__], patients, resamples=RESAMPLES, seed=0)),
                "mean reward by errors": [round(float(each), 4) for each in values.mean(0)],
            }
        figures[wording] = found
    strict = scores["in other words", "cluster_f1_strict"]
    above = {
        name: difference(strict, scores["in other words", name], patients, resamples=RESAMPLES, seed=0)
        for name in (*BEATEN, "finding_f1")
    }
    met = all(above[name].low > 0 for name in BEATEN)
    report(
        "reward_quality",
        {
            "reports": len(made),
            "errors": dict(Counter(kind for _, (_, kinds) in made for kind in kinds)),
            **figures,
            "cluster_f1_strict above, in other words": {name: interval(each) for name, each in above.items()},
            "met": met,
        },
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
