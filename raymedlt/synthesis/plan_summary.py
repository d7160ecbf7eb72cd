"""What a plan amounts to: for the page, from the plan's shards one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raymedlt.synthesis.plan import SMOOTHED
from raymedlt.synthesis.plan_sets import RealSets


@dataclass(frozen=True, kw_only=True)
class ClassPlan:
    """One class in the plan."""

    name: str
    real: int
    """Real training images that show it."""
    rows: int
    """Rows that are planned for it."""
    planned: int
    """Rows that show it, whichever class they are for."""
    label_sets: int
    """Distinct label sets of its rows."""
    new_sets: int
    """Of these, how many no real training image has."""

    @property
    def total(self) -> int:
        """Images with the class, real and planned, if the gate accepts all."""
        return self.real + self.planned


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """A plan in numbers."""

    rows: int
    smoothed: int
    """Rows whose label set was not taken from a real image."""
    label_sets: int
    """Distinct label sets."""
    new_sets: int
    """Label sets that no real training image has."""
    new_rows: int
    """Rows with such a set."""
    classes: tuple[ClassPlan, ...]
    """All classes, the rarest first."""
    shift: float
    """Largest |P(c'|c) of the plan's rows for c - P(c'|c) of the real images with c|, of classes with `shift_rows`."""
    shift_pair: tuple[str, str]
    """(c, c') of it; ("", "") where no class has enough rows."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "classes": [{**asdict(each), "total": each.total} for each in self.classes]}


def summarise(real: RealSets, shards: Iterable[pa.Table], *, shift_rows: int = 100) -> PlanSummary:
    """Count the rows of a plan.

    Args:
        real: the plan's.
        shards: tables with the columns PLAN, each row once.
        shift_rows: rows that a class needs before its conditional probabilities are compared with the real ones.

    Memory: one shard and the distinct label sets, C / 8 bytes and a hash entry each, per target class.
    """
    classes = len(real.classes)
    both_CC = np.zeros((classes, classes), np.int64)  # rows for c (first) that show c'
    rows_C = np.zeros(classes, np.int64)
    sets: list[set[bytes]] = [set() for _ in real.classes]
    known = {row.tobytes() for row in np.packbits(real.sets_NC, axis=1)}
    smoothed = new_rows = 0
    for table in shards:
        members_NC = _members(table, real.classes)
        target_N = pc.index_in(table["target"], value_set=pa.array(real.classes)).to_numpy()
        np.add.at(both_CC, target_N, members_NC)
        rows_C += np.bincount(target_N, minlength=classes)
        smoothed += int(pc.sum(pc.equal(table["origin"], SMOOTHED)).as_py() or 0)
        for target, packed in zip(target_N.tolist(), np.packbits(members_NC, axis=1), strict=True):
            key = packed.tobytes()
            sets[target].add(key)
            new_rows += key not in known
    every = set().union(*sets)
    shift, pair = _shift(real, both_CC, rows_C, shift_rows)
    return PlanSummary(
        rows=int(rows_C.sum()),
        smoothed=smoothed,
        label_sets=len(every),
        new_sets=len(every - known),
        new_rows=new_rows,
        classes=tuple(
            ClassPlan(
                name=real.classes[c],
                real=int(real.counts_C[c]),
                rows=int(rows_C[c]),
                planned=int(both_CC[:, c].sum()),
                label_sets=len(sets[c]),
                new_sets=len(sets[c] - known),
            )
            for c in np.argsort(real.counts_C, kind="stable").tolist()
        ),
        shift=shift,
        shift_pair=pair,
    )


def _members(table: pa.Table, classes: tuple[str, ...]) -> NDArray[np.bool_]:
    """[rows, C]"""
    lists = table["label_set"].combine_chunks()
    members_NC = np.zeros((len(lists), len(classes)), np.bool_)
    places = pc.index_in(lists.flatten(), value_set=pa.array(classes)).to_numpy()
    members_NC[pc.list_parent_indices(lists).to_numpy(), places] = True
    return members_NC


def _shift(
    real: RealSets, both_CC: NDArray[np.int64], rows_C: NDArray[np.int64], least: int
) -> tuple[float, tuple[str, str]]:
    enough = np.flatnonzero(rows_C >= least)
    if not len(enough):
        return 0.0, ("", "")
    gap = np.abs(both_CC[enough] / rows_C[enough, None] - real.shares_CC[enough])
    gap[np.arange(len(enough)), enough] = 0.0
    row, column = np.unravel_index(int(gap.argmax()), gap.shape)
    return float(gap[row, column]), (real.classes[enough[row]], real.classes[int(column)])
