"""Nearest candidates by matrix products of rounded vectors, with a proof of what was left out.

A search over all pairs costs N^2 D, and processors multiply low-precision matrices ten times faster than float32. So
vectors are rounded (bfloat16 where the machine is quick at it), all pairs are screened in rounded form, and only the
few that look near are computed again in float64. Rounding moves point x by delta(x) = |x - rounded(x)|, which is known;
so, with d~ the distance of rounded points,

    d(x, y) >= d~(x, y) - delta(x) - max delta        (triangle inequality)

and whoever was screened out at d~ >= t is provably at least t - delta(x) - max delta away. What the product's own
rounding adds is covered by `_slack` and `_output_loss`. The caller compares this floor with its exact distances: where
it proves too little, it screens those few rows again in the next better precision (`PRECISIONS`).

One product gives half a squared distance: (-x~, h(x), 1) . (y~, 1, h(y)), h = |.|^2 / 2 in three rounded parts.
Positive floats are ordered as their bits are, so minima of bfloat16 are taken on 16-bit integers, which is faster.

Shape suffixes: N points, B rows of a block, M columns of a block, K candidates, G groups of columns.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float64]
Precision = Literal["bfloat16", "float32", "float64"]

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32", "float64")
ROWS = 1024  # rows of a block: matrix units want many
_COLUMNS = 4096  # columns of a block: 1024 x 4096 bfloat16 are 8 MB, which the caches hold
_GROUP = 32  # columns whose minimum is looked at before the columns themselves
_WIDTH = 32  # code widths are multiples of this: tiles of matrix units
_PARTS = 3  # rounded parts of half a square
_FAR = 1e30  # half a squared distance of columns that don't exist
_SIGNIFICAND = {"bfloat16": 8, "float32": 24, "float64": 53}  # bits
_BITS = {"bfloat16": "int16", "float32": "int32", "float64": "int64"}


class Candidates(NamedTuple):
    """ids_BK: int64, -1 where there are fewer. floor_B: float64; every column that is not listed is at least so far."""

    ids_BK: Ids
    floor_B: Distances


class Least(NamedTuple):
    """Lower limits of screened distances: row r of a block has those of `limits[owner_B[r]]`, each [N] in code bits."""

    owner_B: Ids  # ascending
    limits: Sequence[Any]


@functools.cache
def quickest_precision(device: str = "cpu") -> Precision:
    """bfloat16 if this machine multiplies it at least 1.5 times faster than float32, measured in 20 ms; else float32.

    Exact results do not depend on the answer, their time does.
    """
    import torch

    seconds = {}
    for precision in ("float32", "bfloat16"):
        codes = torch.ones((2048, 416), dtype=getattr(torch, precision), device=device)
        product = torch.empty((512, 2048), dtype=codes.dtype, device=device)
        times = []
        for _ in range(4):
            began = time.perf_counter()
            torch.mm(codes[:512], codes.T, out=product)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        seconds[precision] = min(times)
    return "bfloat16" if 1.5 * seconds["bfloat16"] < seconds["float32"] else "float32"


class Screen:
    """Rounded vectors that can be searched by all pairs.

    Args:
        vectors_ND: float32 [N, D].
        precision: of the rounded vectors.
        device: "cpu" or "cuda".

    Memory: N (D + 6) numbers of the precision. Threads: whatever torch has been given.
    """

    def __init__(self, vectors_ND: Vectors, precision: Precision, device: str = "cpu") -> None:
        import torch

        self.precision, self.device = precision, device
        self._torch, self._dtype = torch, getattr(torch, precision)
        self._bits = getattr(torch, _BITS[precision])
        n, d = vectors_ND.shape
        self.points, self._parts_at = n, d
        width = -(-(d + 2 * _PARTS) // _WIDTH) * _WIDTH
        columns = -(-max(n, 1) // _GROUP) * _GROUP
        # Distances do not change when the mean is taken off, and numbers near zero lose less when rounded.
        mean_D = vectors_ND.mean(0, dtype=np.float64) if n else np.zeros(d)
        codes = torch.zeros((columns, width), dtype=self._dtype)
        self.delta_N, largest = np.zeros(n), 0.0
        for start in range(0, n, ROWS):
            part = slice(start, min(start + ROWS, n))
            exact = torch.from_numpy(vectors_ND[part].astype(np.float64) - mean_D)
            rounded = exact.to(self._dtype)
            back = rounded.to(torch.float64)
            self.delta_N[part] = (exact - back).norm(dim=1).numpy()
            half = (back * back).sum(1) / 2
            largest = max(largest, 2 * float(half.max()))
            codes[part, :d] = rounded
            codes[part, d : d + _PARTS] = 1
            for number in range(_PARTS):
                piece = half.to(self._dtype)
                codes[part, d + _PARTS + number] = piece
                half = half - piece.to(torch.float64)
        codes[n:, d + _PARTS] = _FAR
        self._codes = codes.to(device)
        self._delta_max = float(self.delta_N.max(initial=0.0))
        # float32 sums of the product (float64's own where it is the precision): four times what their errors add up to
        epsilon = np.finfo(np.float64 if precision == "float64" else np.float32).eps
        self._slack = float(4 * np.sqrt(width) * epsilon * 2 * largest)
        self._output_loss = 2.0 ** -_SIGNIFICAND[precision]

    def bits_of(self, distances_N: Distances) -> Any:
        """Distances as this screen's code bits, rounded down, so that they never exceed what they stand for."""
        half = self._torch.from_numpy(distances_N**2 / 2 * (1 - 2 * self._output_loss))
        bits = self._torch.full((len(self._codes),), 0, dtype=self._bits)
        bits[: self.points] = half.to(self._dtype).view(self._bits)
        return bits.to(self.device)

    @property
    def never(self) -> int:
        """Bits that exceed every distance."""
        return int(self._torch.tensor([3e38], dtype=self._dtype).view(self._bits)[0])

    def nearest(
        self, rows_B: Ids, k: int, spans: Sequence[tuple[int, int]] | None = None, least: Least | None = None
    ) -> Candidates:
        """The k columns with the smallest screened distance to each row (the row's own column counts).

        Args:
            rows_B: at most `ROWS` point numbers.
            spans: the column ranges to search, [start, stop); default: all.
            least: limits below which a screened distance does not count as smaller.
        """
        torch = self._torch
        rows = torch.from_numpy(rows_B).to(self.device)
        left = self._codes[rows]
        d = self._parts_at
        halves = left[:, d + _PARTS : d + 2 * _PARTS].clone()
        left[:, :d] *= -1
        left[:, d + _PARTS : d + 2 * _PARTS] = 1
        left[:, d : d + _PARTS] = halves
        product = torch.empty(len(rows_B) * _COLUMNS, dtype=self._dtype, device=self.device)
        best = _Best(torch, len(rows_B), k, self.device)
        blocks = self._blocks(spans)
        # Neighbours in number are often neighbours in space: a row's own surroundings first, then little is kept later.
        own = int(rows_B[len(rows_B) // 2]) if len(rows_B) else 0
        blocks.sort(key=lambda block: (abs((block[0] + block[1]) / 2 - own), block))
        for number, (start, stop) in enumerate(blocks):
            block = product[: len(rows_B) * (stop - start)].view(len(rows_B), stop - start)
            torch.mm(left, self._codes[start:stop].T, out=block)
            bits = block.view(self._bits)
            if least is not None:
                _limit(torch, bits, least, start, stop)
            best.add(bits, start)
            if number & (number + 1) == 0:  # blocks 0, 1, 3, 7, ...: as many new candidates come between
                best.settle()
        ids_BK, worst_B = best.result()
        ids_BK[ids_BK >= self.points] = -1
        return Candidates(ids_BK, self._floor(worst_B, rows_B))

    def _blocks(self, spans: Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
        whole = len(self._codes)
        wider = [(0, whole)] if spans is None else spans
        return [(s, min(s + _COLUMNS, stop)) for start, stop in wider for s in range(start, stop, _COLUMNS)]

    def _floor(self, worst_B: Any, rows_B: Ids) -> Distances:
        """What is left out has a screened value of at least worst_B: how far away is it at least?"""
        half = self._torch.clamp(worst_B, min=0).view(self._dtype).to(self._torch.float64).cpu().numpy()
        squares = 2 * half * (1 - self._output_loss) - self._slack
        floor = np.sqrt(np.maximum(squares, 0.0)) - self.delta_N[rows_B] - self._delta_max
        floor[half >= _FAR / 2] = np.inf  # only columns that don't exist were left out
        return np.maximum(floor, 0.0)


def _limit(torch: Any, bits: Any, least: Least, start: int, stop: int) -> None:
    owners, first = np.unique(least.owner_B, return_index=True)
    for owner, row, end in zip(owners, first, [*first[1:], len(least.owner_B)], strict=True):
        own = bits[row:end]
        torch.maximum(own, least.limits[owner][start:stop], out=own)


class _Best:
    """The k smallest values of each row, over blocks of columns that come one after the other."""

    def __init__(self, torch: Any, rows: int, k: int, device: str) -> None:
        self.torch, self.rows, self.k, self.device = torch, rows, k, device
        self.worst_B: Any = None  # value of the k-th best so far; what isn't below is not kept
        self.found: list[tuple[Any, Any, Any]] = []  # row, column, value

    def add(self, bits: Any, start: int) -> None:
        """Keep what is smaller than the k-th best, looking at groups of columns first."""
        torch, rows, columns = self.torch, self.rows, bits.shape[1]
        group = _GROUP if columns % _GROUP == 0 and columns >= 2 * _GROUP * self.k else 1
        grouped = bits.view(rows, group, columns // group)
        lowest = grouped.amin(1) if group > 1 else bits
        if self.worst_B is None:
            enough = min(self.k, lowest.shape[1])
            self.worst_B = lowest.topk(enough, dim=1, largest=False).values[:, -1].clone()
            hit = lowest <= self.worst_B[:, None]
        else:
            hit = lowest < self.worst_B[:, None]
        row, place = hit.nonzero(as_tuple=True)
        if group > 1:
            members = grouped[row, :, place]
            inside, offset = (members <= self.worst_B[row][:, None]).nonzero(as_tuple=True)
            values = members[inside, offset]
            row, place = row[inside], place[inside] + offset * (columns // group)
        else:
            values = bits[row, place]
        self.found.append((row, place + start, values))

    def settle(self) -> None:
        """Forget all but the k best of each row."""
        torch = self.torch
        row, column, value = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        order = self._order(row, value)
        row, column, value = row[order], column[order], value[order]
        starts = torch.searchsorted(row, torch.arange(self.rows, device=self.device))
        place = torch.arange(len(row), device=self.device) - starts[row]
        keep = place < self.k
        last = place == self.k - 1
        # A row with fewer than k so far has no worst one: everything is still of interest.
        self.worst_B[row[last]] = value[last]
        self.found = [(row[keep], column[keep], value[keep])]

    def _order(self, row: Any, value: Any) -> Any:
        if value.element_size() <= 4:
            return self.torch.argsort((row << 32) + value.to(self.torch.int64))
        by_value = self.torch.argsort(value)
        return by_value[self.torch.argsort(row[by_value], stable=True)]

    def result(self) -> tuple[Ids, Any]:
        """Columns int64 [B, K], nearest first, -1 where there are fewer, and the value that the others reach."""
        self.settle()
        row, column, _ = self.found[0]
        starts = self.torch.searchsorted(row, self.torch.arange(self.rows, device=self.device))
        ids = self.torch.full((self.rows, self.k), -1, dtype=self.torch.int64, device=self.device)
        ids[row, self.torch.arange(len(row), device=self.device) - starts[row]] = column
        return ids.cpu().numpy(), self.worst_B
