"""A filled-in audit sheet: what the readers found, how they agree, and whether they were awake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymedlt.enrichment.audit.inputs import read_csv
from raymedlt.enrichment.audit.intervals import Share, agreement, stratified
from raymedlt.enrichment.audit.sheet import BANDS, READERS, VERDICTS
from raymedlt.errors import InputError
from raymedlt.schema import AUDIT_KEY, REJECTED
from raymedlt.schema import VERDICTS as VERDICT_ROWS

NOT_A_VERDICT = f"not one of {', '.join(VERDICTS)}"
UNKNOWN_ITEM, TWICE = "the key has no such item", "the item comes twice"


@dataclass(frozen=True)
class ReadBack:
    """Verdicts (schema.VERDICTS) and the cells that were rejected (schema.REJECTED)."""

    verdicts: pa.Table
    rejected: pa.Table
    key: pa.Table

    def figures(self, strata: Mapping[str, int]) -> dict[str, Any]:
        """Shares, agreement and decoys.

        Args:
            strata: band -> additions of the run in it, by which the bands' shares are weighed.
        """
        entries = {row["item"]: row for row in self.key.to_pylist()}
        given: dict[str, dict[str, str]] = {reader: {} for reader in READERS}
        for row in self.verdicts.to_pylist():
            given[row["reader"]][row["item"]] = row["verdict"]
        additions = {item for item, row in entries.items() if not row["decoy"]}
        both = sorted(additions & given[READERS[0]].keys() & given[READERS[1]].keys())
        return {
            "cells": self.verdicts.num_rows,
            "cells_rejected": self.rejected.num_rows,
            "readers": {reader: _reader(words, entries, additions, strata) for reader, words in given.items() if words},
            "agreement": agreement(
                [given[READERS[0]][item] for item in both], [given[READERS[1]][item] for item in both]
            ).to_json(),
            "pairs": sorted(
                [first, second, count]
                for (first, second), count in Counter(
                    (given[READERS[0]][item], given[READERS[1]][item]) for item in both
                ).items()
            ),
        }


def _reader(
    words: Mapping[str, str],
    entries: Mapping[str, Mapping[str, Any]],
    additions: set[str],
    strata: Mapping[str, int],
) -> dict[str, Any]:
    """One reader's figures: item -> verdict."""
    read = {item: word for item, word in words.items() if item in additions}
    decoys = {item: word for item, word in words.items() if item not in additions}

    def shares(items: Sequence[str]) -> dict[str, Share]:
        return {verdict: Share(sum(read[item] == verdict for item in items), len(items)) for verdict in VERDICTS}

    by_band = {band: shares([item for item in read if entries[item]["band"] == band]) for band in BANDS}
    groups = sorted({str(entries[item]["group"]) for item in read})
    by_group = {group: shares([item for item in read if entries[item]["group"] == group]) for group in groups}
    overall = {
        verdict: stratified([(strata.get(band, 0), found[verdict]) for band, found in by_band.items()])
        for verdict in VERDICTS
    }
    return {
        "additions_read": len(read),
        "overall": {verdict: estimate.to_json() for verdict, estimate in overall.items()},
        "by_band": {band: _json(found) for band, found in by_band.items() if found[VERDICTS[0]].whole},
        "by_group": {group: _json(found) for group, found in by_group.items()},
        "decoys_caught": Share(sum(word == "contradicts" for word in decoys.values()), len(decoys)).to_json(),
    }


def _json(shares: Mapping[str, Share]) -> dict[str, Any]:
    return {verdict: share.to_json() for verdict, share in shares.items()}


def read_sheet(path: str, key: pa.Table) -> ReadBack:
    """Read a filled-in sheet against its key.

    An empty cell is no verdict yet. A word that is none of the four, an unknown item and the second row of an item are
    rejected with the reason; the word itself isn't kept, as it may be report text in the wrong column.

    Raises:
        InputError: the file can't be read, or lacks its columns, or no reader wrote anything.
    """
    columns, rows = read_csv(path, "sheet.read")
    if "item" not in columns or not set(READERS) & set(columns):
        raise InputError(
            f"the file of --sheet.read has {len(columns)} columns and lacks 'item' or the readers' columns",
            f"the columns item, {' and '.join(READERS)}, as the sheet had them",
            "give the filled-in sheet.csv",
        )
    known = set(key["item"].to_pylist())
    verdicts: list[dict[str, str]] = []
    rejected: list[dict[str, str]] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):  # as a spreadsheet counts
        item = row["item"].strip().lstrip("'")
        item = item.zfill(4) if item.isdigit() else item  # a spreadsheet turns 0007 into 7
        filled = [(reader, row[reader].strip().lower()) for reader in READERS if row.get(reader, "").strip()]
        for reader, word in filled:
            reason = UNKNOWN_ITEM if item not in known else TWICE if item in seen else ""
            reason = reason or ("" if word in VERDICTS else NOT_A_VERDICT)
            if reason:
                rejected.append({"row_id": f"row {number}, {reader}", "source": "sheet", "reason": reason})
            else:
                verdicts.append({"item": item, "reader": reader, "verdict": word})
        seen.add(item)
    if not verdicts:
        raise InputError(
            f"no verdict in the file of --sheet.read ({len(rejected)} cells rejected)",
            f"{', '.join(VERDICTS)} in the columns {' and '.join(READERS)}",
            "fill the sheet in, and give the key of that very sheet",
        )
    return ReadBack(
        pa.Table.from_pylist(verdicts, schema=VERDICT_ROWS), pa.Table.from_pylist(rejected, schema=REJECTED), key
    )


def read_key(path: str) -> pa.Table:
    """The key file of a sheet: schema.AUDIT_KEY.

    Raises:
        InputError: it can't be read, or is no key file.
    """
    columns, rows = read_csv(path, "sheet.key")
    if not set(AUDIT_KEY.names) <= set(columns):
        raise InputError(
            "the file of --sheet.key is no key file", f"the columns {AUDIT_KEY.names}", "give sheet/key.csv"
        )
    plain = [{name: row[name].removeprefix("'") for name in AUDIT_KEY.names} for row in rows]
    try:
        return pa.Table.from_pylist([{**row, "cluster_id": int(row["cluster_id"])} for row in plain], schema=AUDIT_KEY)
    except ValueError:
        raise InputError("a cluster_id in --sheet.key is no number", "the key as it was written") from None
