"""Signs of patients and staff in report texts: false alarms on de-identified reports, recall of what is put into them.

    python benchmarks/phi.py                     # half a minute

openi, padchest: the packaged reports, which were de-identified: alarms by kind, per report. PadChest is known to have
kept dates of earlier studies; they count as alarms here and are true ones, so only OpenI has a bar.
injected: OpenI reports with one made-up sign each at a random sentence border. `plain` are the spellings that the rules
are for; `bare` are those that they can't see (names without title, form or role; everything in small letters).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
from common import openi_reports, report, reports_of, share

from raymedlt.reports.phi import kinds_in

FALSE_ALARMS, RECALL, SECONDS_PER_100K = 0.005, 0.95, 15.0
INJECTED = 3_000

_FIRST = ("Anna", "Luis", "Mary", "Ibrahim", "Chen", "Olga", "José", "Priya", "Tom", "Zoë")
_LAST = ("Miller", "García", "O'Neil", "Nguyen", "Smith-Jones", "Kowalski", "De Boer", "Haddad", "Lee", "Brown")
_MONTHS = ("January", "February", "March", "April", "June", "July", "August", "September", "October", "November")

Make = Callable[[random.Random], str]


def _digits(draw: random.Random, count: int) -> str:
    return str(draw.randrange(1, 10)) + "".join(str(draw.randrange(10)) for _ in range(count - 1))


def _name(draw: random.Random) -> str:
    return f"{draw.choice(_FIRST)} {draw.choice(_LAST)}"


def _date(draw: random.Random) -> str:
    year, month, day = draw.randrange(1995, 2026), draw.randrange(1, 13), draw.randrange(1, 29)
    return draw.choice((
        f"{month}/{day}/{year}", f"{month:02d}/{day:02d}/{year % 100:02d}", f"{day}.{month}.{year}",
        f"{year}-{month:02d}-{day:02d}", f"{draw.choice(_MONTHS)} {day}, {year}",
        f"{day} {draw.choice(_MONTHS)[:3]} {year}", f"{draw.choice(_MONTHS)} {year}",
    ))  # fmt: skip


PLAIN: dict[str, Sequence[Make]] = {
    "name": (
        lambda draw: f"Discussed with Dr. {draw.choice(_LAST)} by telephone.",
        lambda draw: f"{draw.choice(('Mr.', 'Mrs.', 'Ms.'))} {draw.choice(_LAST)} was seen.",
        lambda draw: f"Patient name: {_name(draw)}.",
        lambda draw: f"Dictated by {_name(draw)}.",
        lambda draw: f"Findings were communicated to {_name(draw)} at the ward.",
        lambda draw: f"{_name(draw)}, MD.",
    ),
    "date": (lambda draw: f"Comparison is made to {_date(draw)}.", lambda draw: f"Since {_date(draw)} unchanged."),
    "age over 89": (
        lambda draw: f"{draw.randrange(90, 108)}-year-old {draw.choice(('man', 'woman'))}.",
        lambda draw: f"A {draw.randrange(90, 108)} y/o patient.",
    ),
    "phone": (
        lambda draw: f"Call {_digits(draw, 3)}-{_digits(draw, 3)}-{_digits(draw, 4)}.",
        lambda draw: f"Call ({_digits(draw, 3)}) {_digits(draw, 3)}-{_digits(draw, 4)}.",
        lambda draw: f"Pager {_digits(draw, 5)}.",
        lambda draw: f"Call +{_digits(draw, 2)} {_digits(draw, 3)} {_digits(draw, 3)} {_digits(draw, 3)}.",
    ),
    "e-mail": (lambda draw: f"Write to {draw.choice(_FIRST).lower()}.x{_digits(draw, 2)}@ward.example.com.",),
    "address": (
        lambda draw: (
            f"Lives at {_digits(draw, 3)} {draw.choice(('Oak', 'Main', 'Old Mill'))} "
            f"{draw.choice(('Street', 'Avenue', 'Road', 'Blvd'))}."
        ),
        lambda draw: f"From Bloomington, IN {_digits(draw, 5)}.",
    ),
    "id": (
        lambda draw: f"MRN {_digits(draw, 7)}.",
        lambda draw: f"Accession number: {_digits(draw, 8)}.",
        lambda draw: f"SSN {_digits(draw, 3)}-{_digits(draw, 2)}-{_digits(draw, 4)}.",
        lambda draw: f"Medical record no. {draw.choice('ABC')}{_digits(draw, 6)}.",
    ),
}
BARE: dict[str, Sequence[Make]] = {
    "name": (
        lambda draw: f"{_name(draw)} has a cough.",
        lambda draw: f"discussed with {_name(draw).lower()}.",
        lambda draw: f"{draw.choice(_LAST).upper()} {draw.choice(_FIRST).upper()} CHEST TWO VIEWS.",
    ),
}


def _texts(reports: pa.Table) -> list[str]:
    columns = (reports[name].to_pylist() for name in ("findings", "impression", "indication"))
    return ["\n".join(texts) for texts in zip(*columns, strict=True)]


def _alarms(texts: Sequence[str]) -> dict[str, object]:
    began = time.process_time()
    found = [kinds_in(text) for text in texts]
    seconds = time.process_time() - began
    kinds = sorted({kind for kinds in found for kind in kinds})
    return {
        "reports": len(texts),
        "with an alarm": sum(map(bool, found)),
        "share": share(sum(map(bool, found)), len(texts)),
        "by kind": {kind: sum(kind in kinds for kinds in found) for kind in kinds},
        "seconds for 100,000": round(seconds / len(texts) * 100_000, 2),
    }


def _recall(texts: Sequence[str], makers: dict[str, Sequence[Make]], draw: random.Random) -> dict[str, float]:
    caught: dict[str, float] = {}
    for kind, variants in makers.items():
        hits = 0
        for number in range(INJECTED):
            sentences = draw.choice(texts).split(". ")
            sentences.insert(draw.randrange(len(sentences) + 1), variants[number % len(variants)](draw).rstrip("."))
            hits += kind in kinds_in(". ".join(sentences))
        caught[kind] = share(hits, INJECTED)
    return caught


def main() -> int:
    kinds_in("")  # compiles the rules
    openi = _texts(openi_reports())
    alarms = _alarms(openi)
    draw = random.Random(0)
    plain = _recall(openi, PLAIN, draw)
    report(
        "phi",
        {
            "openi": alarms,
            "padchest": _alarms(_texts(reports_of("padchest"))),
            "injected plain (recall)": plain,
            "injected bare (recall)": _recall(openi, BARE, draw),
            "bars": {"false alarms": FALSE_ALARMS, "recall": RECALL, "seconds for 100,000": SECONDS_PER_100K},
        },
    )
    late = float(str(alarms["seconds for 100,000"])) > SECONDS_PER_100K
    return int(float(str(alarms["share"])) > FALSE_ALARMS or min(plain.values()) < RECALL or late)


if __name__ == "__main__":
    sys.exit(main())
