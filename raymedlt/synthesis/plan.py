"""The plan of a synthetic set: a table, written before sampling starts, whose every row decides about one image.

Which classes fall short of a target, how many images each needs, the label set of each image (see `plan_sets`), its
prompt (see `prompts`) and its seed. A row is a function of the real label sets, the run's seed, the class that it is
for and its number among that class's rows: a larger target gives the same rows and more of them, and any part of the
plan can be made on its own (`Plan.rows`), on any worker. Memory: the real label sets and one shard.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raymedlt.config import require
from raymedlt.errors import InputError
from raymedlt.images.splits import MEDIUM, TAIL, groups
from raymedlt.schema import PLAN
from raymedlt.seeds import generator, keyed_seed
from raymedlt.synthesis.plan_sets import Drawn, RealSets, real_sets
from raymedlt.synthesis.prompts import FRONTAL, Described, prompt_of

REAL, SMOOTHED, REQUESTED = "real", "smoothed", "requested"


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What to plan."""

    count: int | None = None
    """Images that each chosen class should have, real and synthetic ones together. Default: see plan.quantile."""
    quantile: float = 0.5
    """Without plan.count: this quantile of the classes' numbers of real training images, rounded up."""
    groups: Literal["tail", "tail_medium", "all"] = "tail"
    """Which classes are added to: by frequency, see plan.tail_up_to and plan.head_above."""
    classes: list[str] | None = None
    """These classes instead of plan.groups."""
    tail_up_to: float = 0.01
    """A class in at most this share of the real training images belongs to the tail."""
    head_above: float = 0.10
    """A class in more than this share of the real training images belongs to the head."""
    cap: int | None = None
    """At most so many rows for one class."""
    overdraw: float = 1.0
    """Rows per missing image: the gate refuses some. 2 suits an acceptance of a half."""
    requests: list[tuple[list[str], int]] = field(default_factory=list)
    """Label sets that are wanted besides, with the number of rows: [[[Pneumothorax, Chest drain], 50]]."""
    normal_classes: list[str] = field(default_factory=list)
    """Classes that mean that there is no finding, besides "No Finding" and "normal"; no part of a planned set."""
    smoothing: float = 5.0
    """Pseudo-images per class whose label sets are new combinations; 0: label sets of real images only."""
    shrinkage: float = 1.0
    """Pseudo-images that draw a class's co-occurrences towards the classes' frequencies."""
    never_below: float = 5.0
    """A pair that no image shows is impossible if at least so many would by chance; else it is only rare."""
    varied: bool = False
    """Prompts vary in wording and order of the findings: for large generators. Otherwise equal label sets have equal
    prompts, and a small generator learns them sooner."""
    view: str = FRONTAL
    """What the prompts call the view: frontal, PA, AP, lateral."""

    def __post_init__(self) -> None:
        require(self.count is None or self.count >= 1, "plan.count", self.count, "at least 1")
        require(0 <= self.quantile <= 1, "plan.quantile", self.quantile, "a quantile in [0, 1]")
        shares = 0 <= self.tail_up_to < self.head_above < 1
        require(shares, "plan.tail_up_to", self.tail_up_to, "0 <= tail_up_to < head_above < 1")
        require(self.cap is None or self.cap >= 1, "plan.cap", self.cap, "at least 1")
        require(self.overdraw >= 1, "plan.overdraw", self.overdraw, "at least 1")
        for name in ("smoothing", "shrinkage"):
            require(getattr(self, name) >= 0, f"plan.{name}", getattr(self, name), "0 or more")
        require(self.never_below > 0, "plan.never_below", self.never_below, "a positive number of images")
        require(all(rows >= 1 for _, rows in self.requests), "plan.requests", self.requests, "at least 1 row each")


class Block(NamedTuple):
    """Rows for one class, or for one requested set."""

    target: int
    """Number of the class."""
    rows: int
    requested: tuple[int, ...] = ()
    """Numbers of the requested set's classes, rising."""


@dataclass(frozen=True)
class Plan:
    """A plan that is made when it is read. Pickles; a worker can make its own part."""

    real: RealSets
    blocks: tuple[Block, ...]
    settings: PlanSettings
    target_count: int
    seed: int
    checkpoint_hash: str
    findings: pa.ListArray | None
    """Beside the real images: structs name, side, severity, as the phantom gives them."""

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    def rows_of(self) -> dict[str, int]:
        """Rows per target class, the rarest first; requested sets count for their rarest class."""
        found: dict[str, int] = {}
        for block in self.blocks:
            name = self.real.classes[block.target]
            found[name] = found.get(name, 0) + block.rows
        return found

    def expected_positives(self) -> NDArray[np.float64]:
        """[C]: images per class after adding the plan, as the probabilities say; nothing is drawn for it."""
        found = self.real.counts_C.astype(np.float64)
        for block in self.blocks:
            if block.requested:
                found[list(block.requested)] += block.rows
            else:
                found += block.rows * self.real.conditional_CC[block.target]
        return found

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` of the plan, columns PLAN. About 0.1 ms a row."""
        made, first = [], 0
        for block in self.blocks:
            numbers = range(max(start - first, 0), min(stop - first, block.rows))
            made += [self._row(block, number) for number in numbers]
            first += block.rows
        return pa.Table.from_pylist(made, schema=PLAN)

    def shards(self, shard_rows: int) -> Iterator[pa.Table]:
        """The plan in tables of `shard_rows` rows (the last one may be shorter), one in memory at a time."""
        for start in range(0, len(self), shard_rows):
            yield self.rows(start, start + shard_rows)

    def _row(self, block: Block, number: int) -> dict[str, Any]:
        target = self.real.classes[block.target]
        key = (target, number) if not block.requested else ("+".join(self._names(block.requested)), number, REQUESTED)
        rng = generator(self.seed, "plan", *key)
        if block.requested:
            drawn = Drawn(block.requested, self.real.donors(block.requested, rng), False)
        else:
            drawn = self.real.draw(block.target, rng)
        described = self._described(drawn)
        content = {
            "label_set": [each.name for each in described],
            "prompt": prompt_of(
                described, seed=self.seed, key=key, varied=self.settings.varied, view=self.settings.view
            ),
            "seed": keyed_seed(self.seed, "image", *key),
            "checkpoint_hash": self.checkpoint_hash,
            "target": target,
            "number": number,
            "origin": REQUESTED if block.requested else SMOOTHED if drawn.smoothed else REAL,
            "sides": [each.side for each in described],
            "severities": [each.severity for each in described],
        }
        return {"row_id": row_id(content), **content}

    def _described(self, drawn: Drawn) -> list[Described]:
        """The set with sides and severities of real images that show its classes, where these are known."""
        names = self._names(drawn.members)
        if self.findings is None:
            return [Described(name) for name in names]
        cells = {donor: self.findings[donor].as_py() or () for donor in set(drawn.donors)}
        return [_described(name, cells[donor]) for name, donor in zip(names, drawn.donors, strict=True)]

    def _names(self, members: Sequence[int]) -> list[str]:
        return [self.real.classes[member] for member in members]


def make_plan(
    labels_NC: ArrayLike,
    known_NC: ArrayLike | None,
    classes: Sequence[str],
    settings: PlanSettings,
    *,
    seed: int,
    checkpoint_hash: str,
    findings: pa.ListArray | pa.ChunkedArray | None = None,
) -> Plan:
    """Decide what to generate; the rows are made by `Plan.rows` and `Plan.shards`.

    Args:
        labels_NC: 1 where a real training image shows the class (no validation, test or synthetic image).
        known_NC: false where a label is uncertain or unknown; None: all are known.
        classes: C names.
        seed: the run's.
        checkpoint_hash: of the generator; a part of every row.
        findings: beside the images, list<struct<name, side, severity>>; classes that it lacks have neither.

    Raises:
        InputError: a class that no real training image shows, an impossible requested set, no class of the group, or
            nothing that falls short.
    """
    real = real_sets(
        labels_NC,
        known_NC,
        classes,
        normal_classes=settings.normal_classes,
        smoothing=settings.smoothing,
        shrinkage=settings.shrinkage,
        never_below=settings.never_below,
    )
    if isinstance(findings, pa.ChunkedArray):
        findings = findings.combine_chunks()
    if findings is not None and len(findings) != len(real.sets_NC):
        raise InputError(f"findings of {len(findings)} images", f"of the {len(real.sets_NC)} real training images")
    chosen = _chosen(real, settings)
    target_count = settings.count or count_at(real.counts_C[~real.normal_C], settings.quantile)
    rows_C = shortfall(real.counts_C, target_count, overdraw=settings.overdraw, cap=settings.cap)
    blocks = [Block(number, int(rows_C[number])) for number in chosen if rows_C[number]]
    requested: dict[frozenset[str], int] = {}  # the same set asked for twice is one block, whose rows differ
    for names, rows in settings.requests:
        requested[frozenset(names)] = requested.get(frozenset(names), 0) + rows
    blocks += [_requested(real, sorted(names), rows) for names, rows in requested.items()]
    if not blocks:
        raise InputError(
            f"each of the {len(chosen)} chosen classes has {target_count} or more real training images",
            "a class that falls short of the target",
            "raise --plan.count, or --plan.quantile",
        )
    return Plan(real, tuple(blocks), settings, target_count, seed, checkpoint_hash, findings)


def shortfall(
    counts_C: ArrayLike, target_count: int, *, overdraw: float = 1.0, cap: int | None = None
) -> NDArray[np.int64]:
    """Rows per class, int64 [C]: min(cap, ceil(overdraw * max(0, target - n_c))).

    What a class gains from rows that are planned for other classes is not subtracted: its rows must not depend on
    theirs. `Plan.expected_positives` counts it.
    """
    missing_C = np.maximum(target_count - np.asarray(counts_C, np.int64), 0)
    rows_C = np.ceil(missing_C * overdraw).astype(np.int64)
    return rows_C if cap is None else np.minimum(rows_C, cap)


def count_at(counts_C: ArrayLike, quantile: float) -> int:
    """The quantile of the class counts (linear interpolation), rounded up."""
    return math.ceil(float(np.quantile(np.asarray(counts_C, np.float64), quantile)))


def row_id(content: dict[str, Any]) -> str:
    """The name of a row: "syn-" and 96 bits of the BLAKE2b hash of its other columns as JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "syn-" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _chosen(real: RealSets, settings: PlanSettings) -> list[int]:
    """Numbers of the classes to add to, the rarest first."""
    if settings.classes is not None:
        numbers = [real.number(name) for name in dict.fromkeys(settings.classes)]
    else:
        group_of = groups(real.sets_NC, None, settings.head_above, settings.tail_up_to)
        wanted = {"tail": (TAIL,), "tail_medium": (TAIL, MEDIUM)}.get(settings.groups)
        found = [number for number, group in group_of.items() if wanted is None or group in wanted]
        numbers = [real.number(real.classes[number]) for number in found if not real.normal_C[number]]
        if not numbers and not settings.requests:
            raise InputError(
                f"no class of the group '{settings.groups}': none is in at most "
                f"{100 * (settings.tail_up_to if settings.groups == 'tail' else settings.head_above):g} % of "
                f"{len(real.sets_NC)} real training images",
                "at least one class to add to",
                "change --plan.groups or --plan.tail_up_to, or name the classes with --plan.classes",
            )
    return sorted(numbers, key=lambda number: (real.counts_C[number], number))


def _requested(real: RealSets, names: Sequence[str], rows: int) -> Block:
    members = tuple(sorted({real.number(name) for name in names}))
    why = real.why_impossible(members) if members else "no class at all"
    if why:
        raise InputError(
            f"the requested label set {list(names)} is impossible: {why}",
            "a set that real images make plausible",
            "change plan.requests; plan.never_below says when a pair counts as impossible",
        )
    return Block(min(members, key=lambda number: (real.counts_C[number], number)), rows, members)


def _described(name: str, cell: Sequence[dict[str, Any]]) -> Described:
    """The class as the real image's findings describe it."""
    for each in cell:
        if each["name"] == name:
            return Described(name, each["side"] or "", each["severity"])
    return Described(name)
