"""Nearest candidates by matrix products of rounded vectors, with a proof of what was left out.

A search over all pairs costs N^2 D, and many processors multiply low-precision matrices ten times faster than float32.
So vectors are rounded (bfloat16 where the machine is quick at it), all pairs are screened in rounded form, and only the
few that look near are computed again in float64. Rounding moves point x by delta(x) = |x - rounded(x)|, which is known;
so, with d~ the distance of rounded points,

    d(x, y) >= d~(x, y) - delta(x) - max delta        (triangle inequality)

and whoever was screened out at d~ >= t is provably at least t - delta(x) - max delta away. What the product's own
rounding adds is covered by `_slack` and `_loss`. The caller compares this floor with its exact distances: where it
proves too little, those few rows are screened again in the next better precision.

One product gives half a squared distance: (-x~, h(x), 1) . (y~, 1, h(y)), h = |.|^2 / 2 in three rounded parts.
Positive floats are ordered as their bits are, so values are compared as integers, which is faster for bfloat16.

Shape suffixes: N points, B rows, M columns of a block, K candidates, W code width. A place is a row of the codes: the
points in the order that the screen was given.
"""

from __future__ import annotations

import copy
import functools
import threading
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from raymedlt.cpus import cpus, use_threads

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float64]
Precision = Literal["bfloat16", "float32", "float64"]

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32", "float64")
ROWS = 1024  # rows of a product: matrix units want many
COLUMNS = 4096  # columns of a product: 1024 x 4096 bfloat16 are 8 MB, which the caches hold
_GROUP = 32  # columns whose minimum is looked at before the columns themselves
_TILE = 32  # code widths are multiples of this: tiles of matrix units
_STEP = 128  # products have few shapes, since a library prepares each shape anew: columns come in these steps,
_ROW_STEPS = (64, 128, 256, 512)  # rows in these or in ROWS
_PARTS = 3  # rounded parts of half a square
_FAR = 1e30  # half a squared distance of columns that don't exist
_NEVER = 3e38  # what exceeds every distance
_SIGNIFICAND = {"bfloat16": 8, "float32": 24, "float64": 53}  # bits
_BITS = {"bfloat16": "int16", "float32": "int32", "float64": "int64"}


class Candidates(NamedTuple):
    """places_BK: int64, -1 where there are fewer. floor_B: float64; visited and unlisted is at least so far."""

    places_BK: Ids
    floor_B: Distances


class Visit(NamedTuple):
    """Rows (numbers into the rows of the search; None: all) that look at the places [start, stop)."""

    rows: Ids | None
    start: int
    stop: int


class Limits(NamedTuple):
    """What else makes a screened distance large: lower limits of a place's distance to anybody, and masks.

    least: code bits [N] from `Screen.bits_of`. group_N, group_B: int32; a row does not see places of its own group.
    """

    least: npt.NDArray[np.integer]
    group_N: npt.NDArray[np.int32]
    group_B: npt.NDArray[np.int32]


@functools.cache
def quickest_precision(device: str = "cpu") -> Precision:
    """bfloat16 if this machine multiplies it at least 1.5 times faster than float32, measured in 0.1 s; else float32.

    Exact results do not depend on the answer, only their time does.
    """
    import torch

    seconds = {}
    threads = torch.get_num_threads()
    use_threads(1)  # threads that wait for each other on a busy machine would be measured instead
    for precision in ("float32", "bfloat16"):
        codes = torch.ones((2048, 416), dtype=getattr(torch, precision), device=device)
        product = torch.empty((512, 2048), dtype=codes.dtype, device=device)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(codes[:512], codes.T, out=product)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        seconds[precision] = min(times)
    use_threads(threads)
    return "bfloat16" if 1.5 * seconds["bfloat16"] < seconds["float32"] else "float32"


class Screen:
    """Rounded vectors that can be searched by all pairs.

    Args:
        vectors_ND: float32 [N, D].
        precision: of the rounded vectors.
        order_N: the points in the order of their places, all or some; default: as they come.
        stored: keep the codes (N (D + 6) numbers of the precision) or make them block by block when needed.
        device: "cpu" or "cuda".

    Picklable; in an object store the arrays are shared. Threads: whatever torch has been given.
    """

    def __init__(
        self,
        vectors_ND: Vectors,
        precision: Precision,
        order_N: Ids | None = None,
        stored: bool = True,
        device: str = "cpu",
    ) -> None:
        n, d = len(vectors_ND) if order_N is None else len(order_N), vectors_ND.shape[1]
        self.vectors_ND, self.precision, self.order_N, self.device = vectors_ND, precision, order_N, device
        self.points, self.places = n, -(-max(n, 1) // _GROUP) * _GROUP
        room = self.places + _STEP  # a product may reach beyond the last place
        self._bits_type = np.dtype(_BITS[precision])
        self._width = -(-(d + 2 * _PARTS) // _TILE) * _TILE
        # Distances do not change when the mean is taken off, and numbers near zero lose less when rounded.
        self._mean_D = vectors_ND.mean(0, dtype=np.float64) if n else np.zeros(d)
        self._codes = np.zeros((room, self._width), self._bits_type) if stored else None
        self.delta = np.zeros(self.places)

        def fill(start: int) -> float:
            """Code one block of places; its largest square."""
            stop = min(start + COLUMNS, self.places)
            codes, self.delta[start:stop], square = self._encode(self._points_at(start, stop), stop - start)
            if self._codes is not None:
                self._codes[start:stop] = codes.view(self._int()).numpy()
            return square

        with ThreadPoolExecutor(cpus()) as pool:
            largest = max(pool.map(fill, range(0, self.places, COLUMNS)), default=0.0)
        self._delta_max = float(self.delta.max(initial=0.0))
        # Sums of the product are float32 (or better): four times what their rounding errors add up to.
        epsilon = np.finfo(np.float64 if precision == "float64" else np.float32).eps
        self._slack = float(4 * np.sqrt(self._width) * epsilon * 2 * largest)
        self._loss = 2.0 ** -_SIGNIFICAND[precision]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tensor"}

    def on(self, device: str) -> Screen:
        """The same codes on another device."""
        other = copy.copy(self)
        other.device = device
        other.__dict__.pop("_tensor", None)
        return other

    def bits_of(self, distances_N: Distances) -> npt.NDArray[np.integer]:
        """Distances of the points as code bits by place, rounded down: they never exceed what they stand for."""
        import torch

        by_place = np.zeros(self.places)
        by_place[: self.points] = distances_N if self.order_N is None else distances_N[self.order_N]
        half = torch.from_numpy(np.minimum(by_place**2 / 2 * (1 - 2 * self._loss), _FAR / 10))
        bits: npt.NDArray[np.integer] = half.to(self._float()).view(self._int()).numpy()
        return bits

    def nearest(self, places_B: Ids, k: int, visits: Iterable[Visit], limits: Limits | None = None) -> Candidates:
        """The k places with the smallest screened distance to each row, among those that the row visits.

        Args:
            places_B: the rows. A row's own place counts like any other.
            visits: the first visit of a row should be to its surroundings: what is far is then dropped at once.
            limits: a screened distance counts as no smaller than these.
        """
        import torch

        device = self.device
        rows_BW = self._gather(places_B)
        d = self.vectors_ND.shape[1]
        halves = rows_BW[:, d + _PARTS : d + 2 * _PARTS].clone()
        rows_BW[:, :d] *= -1
        rows_BW[:, d + _PARTS : d + 2 * _PARTS] = 1
        rows_BW[:, d : d + _PARTS] = halves
        buffer = torch.empty(ROWS * (COLUMNS + _STEP), dtype=self._float(), device=device)
        best = _Best(len(places_B), k, self._never(), self._int(), device)
        tensors = None
        if limits is not None:
            tensors = tuple(shared_tensor(array).to(device) for array in limits)
        for visit in visits:
            every = visit.rows is None
            chosen = torch.arange(len(places_B)) if every else torch.from_numpy(visit.rows)
            chosen = chosen.to(device)
            for first in range(0, len(chosen), ROWS):
                rows = chosen[first : first + ROWS]
                height = next((step for step in _ROW_STEPS if len(rows) <= step), ROWS)
                left = rows_BW[torch.nn.functional.pad(rows, (0, height - len(rows)))]
                for start in range(visit.start, visit.stop, COLUMNS):
                    stop = min(start + COLUMNS, visit.stop)
                    width = -(-(stop - start) // _STEP) * _STEP
                    block = buffer[: height * width].view(height, width)
                    torch.mm(left, self._columns(start, start + width).T, out=block)
                    bits_BM = block.view(self._int())[: len(rows), : stop - start]
                    if tensors is not None:
                        least, group_N, group_B = tensors
                        torch.maximum(bits_BM, least[start:stop], out=bits_BM)
                        bits_BM.masked_fill_(group_B[rows][:, None] == group_N[start:stop], best.never)
                    best.add(rows, bits_BM, start)
        places_BK, worst_B = best.result()
        places_BK[places_BK >= self.points] = -1
        return Candidates(places_BK, self._floor(worst_B, places_B))

    def _floor(self, worst_B: Any, places_B: Ids) -> Distances:
        """What was left out has a screened value of at least worst_B: how far away is it at least?"""
        import torch

        half = torch.clamp(worst_B, min=0).view(self._float()).to(torch.float64).cpu().numpy()
        squares = 2 * half * (1 - self._loss) - self._slack
        floor = np.sqrt(np.maximum(squares, 0.0)) - self.delta[places_B] - self._delta_max
        floor[half >= _FAR / 2] = np.inf  # nothing was left out, or only places that don't exist
        return np.maximum(floor, 0.0)

    def _float(self) -> Any:
        import torch

        return getattr(torch, self.precision)

    def _int(self) -> Any:
        import torch

        return getattr(torch, _BITS[self.precision])

    def _never(self) -> int:
        import torch

        return int(torch.tensor([_NEVER], dtype=self._float()).view(self._int())[0])

    def _points_at(self, start: int, stop: int) -> Ids | slice:
        stop = min(stop, self.points)
        return slice(start, max(start, stop)) if self.order_N is None else self.order_N[start:stop]

    def _encode(self, points: Ids | slice, rows: int) -> tuple[Any, Distances, float]:
        """Codes [rows, W] of some points, how far rounding moved each, the largest square; places without a point
        come last and are far from everything."""
        import torch

        exact = torch.from_numpy(self.vectors_ND[points].astype(np.float64) - self._mean_D)
        n, d = exact.shape
        codes = torch.zeros((rows, self._width), dtype=self._float())
        codes[:n, :d] = exact.to(self._float())
        back = codes[:n, :d].to(torch.float64)
        moved = np.zeros(rows)
        moved[:n] = (exact - back).norm(dim=1).numpy()
        half = (back * back).sum(1) / 2
        largest = 2 * float(half.max()) if n else 0.0
        codes[:, d : d + _PARTS] = 1
        for number in range(_PARTS):
            codes[:n, d + _PARTS + number] = half.to(self._float())
            half = half - codes[:n, d + _PARTS + number].to(torch.float64)
        codes[n:, d + _PARTS] = _FAR
        return codes, moved, largest

    @functools.cached_property
    def _tensor(self) -> Any:
        assert self._codes is not None
        return shared_tensor(self._codes).view(self._float()).to(self.device)

    def _columns(self, start: int, stop: int) -> Any:
        if self._codes is not None:
            return self._tensor[start:stop]
        return self._encode(self._points_at(start, stop), stop - start)[0].to(self.device)

    def _gather(self, places_B: Ids) -> Any:
        """A copy of the codes of some places."""
        import torch

        if self._codes is not None:
            return self._tensor[torch.from_numpy(places_B).to(self.device)]
        points = places_B if self.order_N is None else self.order_N[places_B]
        return self._encode(points, len(points))[0].to(self.device)


def shared_tensor(array: npt.NDArray[Any]) -> Any:
    """A tensor on the array's memory, which may be the read-only memory of an object store."""
    import torch

    with _FILTERS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


_FILTERS = threading.Lock()  # threads that search side by side must not put back each other's warning filters


class _Best:
    """The k smallest values of each row, over blocks of columns that come one after the other."""

    def __init__(self, rows: int, k: int, never: int, bits: Any, device: str) -> None:
        import torch

        self.rows, self.k, self.never, self.device = rows, k, never, device
        # Value of the k-th best so far: what exceeds it is not kept. `never` itself exceeds it always.
        self.worst_B = torch.full((rows,), never - 1, dtype=bits, device=device)
        self.found: list[tuple[Any, Any, Any]] = []  # row, column, value
        self.waiting = 0

    def add(self, rows: Any, bits_BM: Any, start: int) -> None:
        """Keep what is no larger than the k-th best, looking at groups of columns first."""
        import torch

        columns = bits_BM.shape[1]
        worst = self.worst_B[rows]
        fresh = worst == self.never - 1
        starting = bool(fresh.any())
        group = next((g for g in (_GROUP, 16, 8, 4, 2) if columns // g >= (2 * self.k if starting else 8)), 1)
        even = columns // group * group
        grouped = bits_BM[:, :even].unflatten(1, (group, columns // group))
        lowest = grouped.amin(1) if group > 1 else bits_BM
        if starting and lowest.shape[1] >= self.k:
            reached = lowest[fresh].topk(self.k, dim=1, largest=False).values[:, -1]
            worst[fresh] = torch.clamp(reached, max=self.never - 1)
            self.worst_B[rows] = worst
        row, place = (lowest <= worst[:, None]).nonzero(as_tuple=True)
        if group > 1:
            members = grouped[row, :, place]
            inside, offset = (members <= worst[row][:, None]).nonzero(as_tuple=True)
            self._keep(rows, row[inside], place[inside] + offset * (columns // group), members[inside, offset], start)
        else:
            self._keep(rows, row, place, bits_BM[row, place], start)
        if even < columns:  # a remainder that fills no group
            rest = bits_BM[:, even:]
            row, place = (rest <= worst[:, None]).nonzero(as_tuple=True)
            self._keep(rows, row, place, rest[row, place], start + even)
        if self.waiting > 3 * self.k * self.rows:
            self.settle()

    def _keep(self, rows: Any, row: Any, place: Any, value: Any, start: int) -> None:
        self.found.append((rows[row], place + start, value))
        self.waiting += len(row)

    def settle(self) -> None:
        """Forget all but the k best of each row, nearest first (the smaller place on ties)."""
        import torch

        row, column, value = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        order = torch.argsort(column, stable=True)
        order = order[_sorted_by(row[order], value[order])]
        row, column, value = row[order], column[order], value[order]
        rank = torch.arange(len(row), device=self.device) - self._starts(row)[row]
        keep, last = rank < self.k, rank == self.k - 1
        self.worst_B[row[last]] = value[last]
        self.found = [(row[keep], column[keep], value[keep])]
        self.waiting = 0

    def result(self) -> tuple[Ids, Any]:
        """Columns int64 [B, K], nearest first, -1 where there are fewer, and the value that all others reach."""
        import torch

        places = torch.full((self.rows, self.k), -1, dtype=torch.int64, device=self.device)
        if self.found:
            self.settle()
            row, column, _ = self.found[0]
            places[row, torch.arange(len(row), device=self.device) - self._starts(row)[row]] = column
        return places.cpu().numpy(), self.worst_B

    def _starts(self, row: Any) -> Any:
        import torch

        return torch.searchsorted(row, torch.arange(self.rows, device=self.device))


def _sorted_by(row: Any, value: Any) -> Any:
    """Stable order by (row, value)."""
    import torch

    if value.element_size() <= 4:
        return torch.argsort((row << 32) + value.to(torch.int64), stable=True)
    by_value = torch.argsort(value, stable=True)
    return by_value[torch.argsort(row[by_value], stable=True)]
