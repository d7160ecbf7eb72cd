"""How well is PadChest's Spanish read? Signs against labels by hand, reports against the data set's labels, speed.

    python benchmarks/assertion_spanish.py

1. Sentence level: `gold/padchest_signs.csv`, 400 distinct sentences labelled before the rules were written: 250 with
   the smallest sha256 of "raymedlt es gold:" + key, and the next 150 in that order with five occurrences or more. The
   file holds no text: offset is a key's rank among all sorted distinct keys, sha256 the first 16 digits of the key's.
2. Report level: studies labelled "normal" alone against those with any finding. A report is called abnormal if one of
   its sentences is abnormal or mixed. Reports labelled "unchanged", "exclude" or "suboptimal study" alone say neither
   and are left out. The tables were written looking at other sentences and at these labels, so this part isn't blind.
3. Recall of the 20 commonest labels that name a finding: a report's mention of the finding, or a kind of it, that isn't
   denied.
4. Sentences per second on one core (all distinct sentences, best of three, CPU time), words unknown to the tables.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from common import report, share

from raymedlt.intervals import wilson
from raymedlt.reports.assertion import Judgement, is_a, judge_many
from raymedlt.reports.labels import findings_of
from raymedlt.reports.readers import open_reader
from raymedlt.reports.sentences import sentence_key, split_sentences
from raymedlt.schema import REPORTS

GOLD = Path(__file__).parent / "gold" / "padchest_signs.csv"
SIGNS = ("normal", "neutral", "abnormal", "mixed")
NO_FINDING = frozenset({"normal", "unchanged", "exclude", "suboptimal study"})
Reports = list[tuple[list[str], frozenset[str]]]  # a report's sentence keys, its labels


def padchest_reports() -> Reports:
    """Sentence keys and labels of each report with text."""
    reader = open_reader(None, "padchest")
    rows = pa.concat_tables([batch for unit in reader.units() for batch in reader.read(unit)])
    table = rows.filter(pc.is_null(rows["reason"])).select(REPORTS.names)
    pairs = zip(table["findings"].to_pylist(), table["labels"].to_pylist(), strict=True)
    return [([sentence_key(s) for s in split_sentences(text)], frozenset(labels)) for text, labels in pairs]


def f1(right: int, wrong: int, missed: int) -> float:
    return share(2 * right, 2 * right + wrong + missed)


def against_gold(keys: list[str], judged: dict[str, Judgement]) -> dict[str, Any]:
    confusion: Counter[tuple[str, str]] = Counter()
    for row in csv.DictReader(GOLD.read_text(encoding="utf-8").splitlines()):
        key = keys[int(row["offset"])]
        assert hashlib.sha256(key.encode()).hexdigest().startswith(row["sha256"])
        confusion[row["sign"], judged[key].sign] += 1
    right = confusion["normal", "normal"]
    called = sum(confusion[sign, "normal"] for sign in SIGNS)
    there = sum(confusion["normal", sign] for sign in SIGNS)
    return {
        "sentences": sum(confusion.values()),
        "normal_precision": share(right, called),
        "normal_precision_wilson": [round(bound, 5) for bound in wilson(right, called)],
        "normal_recall": share(right, there),
        "normal_recall_wilson": [round(bound, 5) for bound in wilson(right, there)],
        "abnormal_or_mixed_called_normal": confusion["abnormal", "normal"] + confusion["mixed", "normal"],
        "right_sign": share(sum(confusion[sign, sign] for sign in SIGNS), sum(confusion.values())),
        "confusion_gold_to_ours": {gold: {ours: confusion[gold, ours] for ours in SIGNS} for gold in SIGNS},
    }


def against_labels(reports: Reports, judged: dict[str, Judgement]) -> dict[str, Any]:
    counts: Counter[tuple[str, str]] = Counter()
    sentences = wrong = 0
    for keys, labels in reports:
        if labels <= NO_FINDING - {"normal"} or ("normal" in labels and labels <= NO_FINDING and len(labels) > 1):
            continue
        flagged = [judged[key].sign in ("abnormal", "mixed") for key in keys]
        truth = "abnormal" if labels - NO_FINDING else "normal"
        counts[truth, "abnormal" if any(flagged) else "normal"] += 1
        if truth == "normal":
            sentences, wrong = sentences + len(flagged), wrong + sum(flagged)
    a, b = counts["abnormal", "abnormal"], counts["normal", "normal"]
    missed, alarms = counts["abnormal", "normal"], counts["normal", "abnormal"]
    return {
        "reports": sum(counts.values()),
        "normal_f1": f1(b, missed, alarms),
        "abnormal_f1": f1(a, alarms, missed),
        "sentences_of_normal_reports_called_abnormal": share(wrong, sentences),
        "abnormal_reports_called_normal": share(missed, a + missed),
    }


def recall_by_label(reports: Reports, judged: dict[str, Judgement]) -> dict[str, Any]:
    numbers = Counter(label for _, labels in reports for label in labels - NO_FINDING)
    commonest = [label for label, _ in numbers.most_common(20)]
    meanings = {label: [found.finding for found in findings_of([label], "padchest")] for label in commonest}
    found: Counter[str] = Counter()
    for keys, labels in reports:
        named = {m.finding for key in keys for m in judged[key].mentions if m.assertion != "absent"}
        for label in labels & meanings.keys():
            found[label] += any(is_a(name, meaning) for name in named for meaning in meanings[label])
    return {label: {"reports": numbers[label], "recall": share(found[label], numbers[label])} for label in commonest}


def main() -> None:
    reports = padchest_reports()
    numbers = Counter(key for keys, _ in reports for key in keys)
    keys = sorted(numbers)
    times = []
    judgements: list[Judgement] = judge_many(keys[:100], "es")
    for _ in range(3):
        started = time.process_time()
        judgements = judge_many(keys, "es")
        times.append(time.process_time() - started)
    judged = dict(zip(keys, judgements, strict=True))
    unknown = [key for key in keys if "unknown_word" in judged[key].flags]
    signs: Counter[str] = Counter()
    for key in keys:
        signs[judged[key].sign] += numbers[key]
    fit = [key for key in keys if judged[key].sign == "normal" and not judged[key].flags]
    report(
        "assertion_spanish",
        {
            "sentences": sum(numbers.values()),
            "distinct": len(keys),
            "signs": dict(signs),
            "normal_without_flags": {"distinct": len(fit), "sentences": sum(numbers[key] for key in fit)},
            "gold": against_gold(keys, judged),
            "labels": against_labels(reports, judged),
            "recall_of_the_commonest_labels": recall_by_label(reports, judged),
            "sentences_per_second": round(len(keys) / min(times)),
            "with_unknown_words": {
                "sentences": share(sum(numbers[key] for key in unknown), sum(numbers.values())),
                "distinct": share(len(unknown), len(keys)),
            },
        },
    )


if __name__ == "__main__":
    main()
