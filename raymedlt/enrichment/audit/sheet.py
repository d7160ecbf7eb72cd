"""The audit sheet: a stratified sample of additions, and decoys, for two readers who are told nothing else.

A stratum is a band of clusters: "common" (the clusters that make up the first half of all additions), "middle" (the
next two fifths) and "rare" (the rest), so that what is added seldom is read too. Inside a band the draw goes evenly
through the groups of findings. The sheet shows the report and the sentence; which sentences are decoys, and what the
run knows of the others, is in the key file.
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymedlt.enrichment import guard
from raymedlt.enrichment.audit.errors import CONTRADICTING
from raymedlt.enrichment.text import finished
from raymedlt.reports.vocabulary import ontology
from raymedlt.runreport.page import Block, KeyValues, Page, Paragraph, Section
from raymedlt.schema import AUDIT_KEY
from raymedlt.seeds import keyed_seed

BANDS = {"common": 0.5, "middle": 0.9, "rare": 1.0}  # band -> share of all additions up to its end
READERS = ("reader_1", "reader_2")
VERDICTS = ("agree", "contradicts", "restates", "unsure")
COLUMNS = ("item", "findings", "impression", "indication", "sentence", *READERS, "remark")
INSTRUCTIONS = (
    "Each item shows a report and one more sentence. Suppose that the sentence stood at the end of the findings. Write"
    " into your column: agree (it may well be true and fits the report), contradicts (the report says otherwise, or"
    " makes it unlikely), restates (the report says so already), unsure. Readers work apart and don't look at the other"
    " column, nor at the key file, before both are done."
)

GROUPS = {
    "lungs": "lung_abnormality",
    "pleura": "pleural_abnormality",
    "heart": "cardiac_silhouette_abnormality",
    "vessels": "pulmonary_vascular_abnormality",
    "aorta": "aortic_abnormality",
    "mediastinum": "mediastinal_abnormality",
    "hila": "hilar_abnormality",
    "diaphragm": "diaphragm_abnormality",
    "bones": "bone_abnormality",
    "soft tissues": "soft_tissue_abnormality",
}
"""Groups of findings for the strata; the first that a finding belongs to counts."""

SEVERAL, OTHER = "several", "other"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Sheet:
    """A sheet and its key; `rows` are in the order of `COLUMNS`, `key` is schema.AUDIT_KEY in the same order.

    strata: band -> additions of the whole run in it.
    """

    rows: list[dict[str, str]]
    key: pa.Table
    strata: dict[str, int]


def make_sheet(
    reports: pa.Table, additions: pa.Table, injections: pa.Table, language: str, items: int, decoys: int, seed: int
) -> Sheet:
    """Draw a sheet.

    Args:
        additions: columns of schema.ADDITIONS (`finished.ADDED`); those of the first variant are drawn from.
        injections: schema.INJECTIONS; decoys are drawn from its contradictions, at most one for a report.

    Fewer items or decoys than asked for where there aren't more. O(additions log additions).
    """
    first = additions.filter(pc.equal(additions["variant"], 0)).to_pylist()
    band_of = bands(Counter(row["cluster_id"] for row in first))
    entries = [
        {
            "report_id": row["report_id"],
            "sentence_key": row["sentence_key"],
            "sentence": row["sentence"],
            "decoy": "",
            "band": band_of[row["cluster_id"]],
            "group": group_of(row["sentence_key"], language),
            "cluster_id": row["cluster_id"],
        }
        for row in first
    ]
    drawn = draw(entries, items, seed) + _decoys(injections, decoys, seed)
    random.Random(keyed_seed(seed, "sheet", "order")).shuffle(drawn)
    texts = {row["report_id"]: row for row in reports.to_pylist()}
    rows, key = [], []
    for number, entry in enumerate(drawn, 1):
        item = f"{number:04d}"
        report = texts[entry["report_id"]]
        shown = {name: str(report[name]) for name in ("findings", "impression", "indication")}
        rows.append({"item": item, **shown, "sentence": entry["sentence"], **dict.fromkeys((*READERS, "remark"), "")})
        key.append({"item": item, **{name: entry[name] for name in AUDIT_KEY.names[1:]}})
    return Sheet(rows, pa.Table.from_pylist(key, schema=AUDIT_KEY), strata_of(additions))


def strata_of(additions: pa.Table) -> dict[str, int]:
    """Additions of the first variant in each band."""
    clusters = additions.filter(pc.equal(additions["variant"], 0))["cluster_id"].to_pylist()
    band_of = bands(Counter(clusters))
    found = Counter(band_of[cluster] for cluster in clusters)
    return {band: found[band] for band in BANDS}


def bands(counts: Mapping[int, int]) -> dict[int, str]:
    """Band of each cluster, from how often it was added."""
    total, before = sum(counts.values()), 0
    result = {}
    for cluster, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        # Where its first addition lies decides, so that the commonest cluster is always "common".
        result[cluster] = next(band for band, end in BANDS.items() if before < end * total)
        before += count
    return result


def group_of(sentence_key: str, language: str) -> str:
    """What a sentence speaks of: one of `GROUPS`, "several" or "other"."""
    known = ontology().ancestors
    found = set()
    for mention in guard.judged(sentence_key, language)[0].mentions:
        found.add(next((name for name, top in GROUPS.items() if top in known[mention.finding]), OTHER))
    return SEVERAL if len(found) > 1 else found.pop() if found else OTHER


def draw(entries: Sequence[dict[str, Any]], items: int, seed: int) -> list[dict[str, Any]]:
    """`items` of the entries: as many from each band as there are, or an equal share; evenly through the groups."""
    by_band = {band: [entry for entry in entries if entry["band"] == band] for band in BANDS}
    chosen: list[dict[str, Any]] = []
    quota = quotas({band: len(of_band) for band, of_band in by_band.items()}, items)
    for band, of_band in by_band.items():
        rng = random.Random(keyed_seed(seed, "sheet", band))
        mixed = sorted(of_band, key=lambda entry: (entry["report_id"], entry["cluster_id"]))
        rng.shuffle(mixed)
        mixed.sort(key=lambda entry: entry["group"])  # a stable sort: random inside a group
        if quota[band]:
            step, start = len(mixed) / quota[band], rng.random()
            chosen += [mixed[int((number + start) * step)] for number in range(quota[band])]
    return chosen


def quotas(sizes: Mapping[str, int], items: int) -> dict[str, int]:
    """Equal shares of `items`, none above its size; what one can't use goes to the others."""
    result = dict.fromkeys(sizes, 0)
    left = min(items, sum(sizes.values()))
    while left:
        open_ones = [name for name in sizes if result[name] < sizes[name]]
        for name in open_ones[:left] if left < len(open_ones) else open_ones:
            more = min(max(left // len(open_ones), 1), sizes[name] - result[name])
            result[name] += more
        left = min(items, sum(sizes.values())) - sum(result.values())
    return result


def _decoys(injections: pa.Table, count: int, seed: int) -> list[dict[str, Any]]:
    rows = [row for row in injections.to_pylist() if row["kind"] in CONTRADICTING]
    rng = random.Random(keyed_seed(seed, "sheet", "decoys"))
    rng.shuffle(rows)
    chosen: dict[str, dict[str, Any]] = {}
    for row in rows:
        chosen.setdefault(row["report_id"], row)
    # The kinds in turn, so that none is left out.
    turn: Counter[str] = Counter()
    ordered = []
    for row in chosen.values():
        ordered.append((turn[row["kind"]], row["kind"], row))
        turn[row["kind"]] += 1
    ordered.sort(key=lambda entry: entry[:2])
    return [
        {
            "report_id": row["report_id"],
            "sentence_key": "",
            "sentence": finished(row["sentence"]),
            "decoy": row["kind"],
            "band": "",
            "group": "",
            "cluster_id": -1,
        }
        for _, _, row in ordered[:count]
    ]


def safe_cell(text: str) -> str:
    """A text that a spreadsheet won't take for a formula: with an apostrophe before it where it would."""
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) else text


def sheet_csv(sheet: Sheet) -> bytes:
    """The sheet as CSV; it begins with a byte order mark, so that spreadsheets read it as UTF-8."""
    return _csv_bytes(COLUMNS, sheet.rows)


def key_csv(key: pa.Table) -> bytes:
    """The key file: schema.AUDIT_KEY as CSV."""
    return _csv_bytes(AUDIT_KEY.names, [{name: str(row[name]) for name in AUDIT_KEY.names} for row in key.to_pylist()])


def _csv_bytes(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: safe_cell(row[name]) for name in columns} for row in rows)
    return text.getvalue().encode("utf-8-sig")


def sheet_page(sheet: Sheet) -> Page:
    """The sheet as a page to read from; verdicts go into the CSV file. Nothing on it tells decoys from additions."""
    blocks: list[Block] = [Paragraph(INSTRUCTIONS)]
    for row in sheet.rows:
        context = [(name.capitalize(), row[name]) for name in ("findings", "impression", "indication") if row[name]]
        blocks.append(KeyValues([*context, ("Sentence to judge", row["sentence"])], title=f"Item {row['item']}"))
    return Page(
        title="Audit sheet",
        verdict=f"{len(sheet.rows)} items to be read. Write your verdicts into sheet.csv.",
        sections=[Section(title="Items", blocks=blocks)],
    )
