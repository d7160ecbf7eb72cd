"""A million reports out of real ones: PadChest and OpenI recombined, with as many distinct sentences as there would be.

    python benchmarks/scale_reports.py --reports 1000000 --output million     # Parquet files for jobs/enrich.py
    python benchmarks/scale_reports.py --law                                  # Heaps' law alone

Heaps' law, D(n) = K n^beta, is fitted to the distinct sentences among the first n PadChest reports, in random order,
by least squares of log D over log n (n from 1,000 up, at equal steps of log n; `--law` prints how well it predicts
the second half of the reports from the first). A made-up report is a real one drawn at random, PadChest's and OpenI's
as often as there are of them. Drawing with replacement alone would run out of new sentences; so after each BLOCK
reports, as many sentences as D(n) is ahead of what was seen, at places drawn at random, are replaced by new ones: one
of the block with a word put in or replaced, drawn from another one of its language. So what is new lies beside what is
known, as most rare sentences do. (The beginning of one sentence with the end of another, tried before, lies between the
clusters: they became a single one, and no report was given anything.) The reports of a smaller set are
the first ones of a larger set. A patient has two reports. The text is as private as its sources: don't pass it on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import reports_of

from raymedlt.reports.sentences import sentence_key, split_sentences

BLOCK, FILE_BLOCKS = 2_000, 10
SECTIONS = ("findings", "impression")
LEAST_REPORTS, POINTS = 1_000, 30
COLUMNS = ("report_id", "patient_id", "findings", "impression", "language")


class Law(NamedTuple):
    """D(n) = factor n^exponent."""

    factor: float
    exponent: float

    def __call__(self, reports: float) -> float:
        return float(self.factor * reports**self.exponent)


Report = tuple[str, list[list[str]]]
"""Language, and the sentences of each of SECTIONS."""


def real_reports() -> list[Report]:
    """PadChest's and OpenI's valid reports, cut into sentences."""
    found: list[Report] = []
    for source in ("padchest", "openi"):
        table = reports_of(source)
        columns = [table[name].to_pylist() for name in ("language", *SECTIONS)]
        found += [
            (language, [split_sentences(text) for text in texts]) for language, *texts in zip(*columns, strict=True)
        ]
    return found


def growth(reports: Sequence[Report], seed: int = 0) -> tuple[list[int], list[int]]:
    """Numbers of reports, and the distinct sentences among so many of them, drawn in random order."""
    sizes = np.unique(np.geomspace(LEAST_REPORTS, len(reports), POINTS).round().astype(int)).tolist()
    seen: set[str] = set()
    counts: list[int] = []
    wanted = iter([*sizes, -1])
    size = next(wanted)
    for number, place in enumerate(np.random.default_rng(seed).permutation(len(reports)).tolist(), 1):
        seen.update(sentence_key(sentence) for section in reports[place][1] for sentence in section)
        if number == size:
            counts.append(len(seen))
            size = next(wanted)
    return sizes, counts


def fitted(sizes: Sequence[int], counts: Sequence[int]) -> Law:
    """Least squares of log D over log n."""
    exponent, constant = np.polyfit(np.log(sizes), np.log(counts), 1)
    return Law(float(np.exp(constant)), float(exponent))


def law_of(reports: Sequence[Report]) -> tuple[Law, dict[str, Any]]:
    """The law of the reports, and how well the one of the first half predicts the whole."""
    sizes, counts = growth(reports)
    law = fitted(sizes, counts)
    half = [number for number, size in enumerate(sizes) if size <= len(reports) / 2]
    early = fitted([sizes[n] for n in half], [counts[n] for n in half])
    return law, {
        "factor": round(law.factor, 2), "exponent": round(law.exponent, 4), "reports": len(reports),
        "distinct": counts[-1], "by the law": round(law(sizes[-1])),
        "by the law of the first half": round(early(sizes[-1])),
        "largest relative error": round(max(abs(law(n) / d - 1) for n, d in zip(sizes, counts, strict=True)), 4),
    }  # fmt: skip


def recombined(reports: Sequence[Report], law: Law, count: int, seed: int = 0) -> Iterator[list[dict[str, str]]]:
    """`count` reports in blocks; see above."""
    seen: set[str] = set()
    for start in range(0, count, BLOCK):
        random = np.random.default_rng((seed, start))
        size = min(BLOCK, count - start)
        block = [
            (language, [list(section) for section in sections])
            for language, sections in (reports[place] for place in random.integers(len(reports), size=size))
        ]
        seen.update(sentence_key(sentence) for _, sections in block for section in sections for sentence in section)
        _renew(block, round(law(start + size)) - len(seen), seen, random)
        yield [_row(start + number, *each) for number, each in enumerate(block)]


def _renew(block: list[Report], wanted: int, seen: set[str], random: np.random.Generator) -> None:
    """Replace so many sentences of the block by new ones."""
    places = [
        (report, section, position)
        for report, (_, sections) in enumerate(block)
        for section, sentences in enumerate(sections)
        for position in range(len(sentences))
    ]
    sources = {language: [] for language, _ in block}  # type: dict[str, list[list[str]]]
    for report, section, position in places:
        sources[block[report][0]].append(block[report][1][section][position].rstrip(".").split())
    for place in random.permutation(len(places))[: max(0, wanted)].tolist():
        report, section, position = places[place]
        language, sections = block[report]
        sections[section][position] = _new(sources[language], seen, random)


def _new(sentences: list[list[str]], seen: set[str], random: np.random.Generator) -> str:
    while True:
        words, other = (sentences[place] for place in random.integers(len(sentences), size=2))
        at, keeps = random.integers(len(words) + 1), random.integers(2)
        words = [*words[:at], other[random.integers(len(other))], *words[at + 1 - keeps :]]
        made = split_sentences(" ".join(words) + ".")
        if len(made) == 1 and (key := sentence_key(made[0])) not in seen:
            seen.add(key)
            return made[0]


def _row(number: int, language: str, sections: Sequence[Sequence[str]]) -> dict[str, str]:
    texts = [
        " ".join(each if each.endswith((".", "!", "?")) else f"{each}." for each in section) for section in sections
    ]
    return dict(zip(COLUMNS, (f"r{number:08d}", f"p{number // 2:08d}", *texts, language), strict=True))


def write(folder: Path, count: int) -> dict[str, Any]:
    """`count` reports as Parquet files of BLOCK x FILE_BLOCKS rows; what the law says."""
    reports = real_reports()
    law, said = law_of([report for report in reports if report[0] == "es"])
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    files = 0
    for block in recombined(reports, law, count):
        rows += block
        if len(rows) == BLOCK * FILE_BLOCKS:
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{files:04d}.parquet")
            rows, files = [], files + 1
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{files:04d}.parquet")
    return said | {"written": count, "distinct by the law": round(law(count))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=1_000_000)
    parser.add_argument("--output", help="folder of the files")
    parser.add_argument("--law", action="store_true", help="print Heaps' law and write nothing")
    given = parser.parse_args()
    if given.law or not given.output:
        print(json.dumps(law_of([report for report in real_reports() if report[0] == "es"])[1], indent=1))
    else:
        print(json.dumps(write(Path(given.output), given.reports), indent=1))


if __name__ == "__main__":
    main()
