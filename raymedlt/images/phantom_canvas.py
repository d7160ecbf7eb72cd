"""The phantom's drawing board: a pixel grid in anatomical coordinates, and what is drawn on it.

Everything is drawn with additions, multiplications, divisions and square roots, which IEEE 754 rounds the same way on
every processor, or through small tables: NumPy's vectorised exp and sin differ in the last digit between processors.

Axes: S working pixels per side. X: 0 at the middle of the thorax, -1 and +1 at the outermost edges of the lungs; X < 0
is the image's left, which is the patient's right. Y: 0 at the tops of the lungs, 1 at their lowest points, downwards.
Side: -1 patient's right, +1 patient's left. a = side * X is the distance from the midline ("lateral").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
LAYERS = (0.0032, 0.008, 0.021)  # standard deviations of strokes: hair lines, tubes, thick vessels; parts of the image
FINE, TUBE, THICK = 0, 1, 2
_TABLE = 512  # entries of a lookup table


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where the thorax lies in the image (unit square, v down)."""

    centre_u: float
    centre_v: float
    half_width: float  # of the lungs, part of the image's width
    height: float  # of the lungs
    sine: float  # of the rotation
    cosine: float


class Board:
    """Coordinates of every working pixel, and the strokes still to be drawn.

    Attributes: x_SS, y_SS anatomical coordinates; size S; pixel: one pixel in units of X.
    """

    def __init__(self, pose: Pose, size: int) -> None:
        self.pose, self.size = pose, size
        grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
        du, dv = grid - np.float32(pose.centre_u), grid - np.float32(pose.centre_v)
        c, s = np.float32(pose.cosine), np.float32(pose.sine)
        w, h = np.float32(pose.half_width), np.float32(pose.height)
        self.x_SS: Field = (c / w * du)[None, :] + (s / w * dv)[:, None]
        self.y_SS: Field = (-s / h * du)[None, :] + (c / h * dv + np.float32(0.5))[:, None]
        self.pixel = 1.0 / (size * pose.half_width)
        self.pixel_y = 1.0 / (size * pose.height)
        self.aspect = pose.height / pose.half_width  # a length in Y times this is the same length in X
        self._strokes: list[list[tuple[Field, Field, Field]]] = [[] for _ in LAYERS]

    def to_pixels(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Field, Field]:
        """Column and row (pixel centres at whole numbers) of anatomical points."""
        p = self.pose
        dx, dy = p.half_width * x, p.height * (y - 0.5)
        column = (p.centre_u + p.cosine * dx - p.sine * dy) * self.size - 0.5
        row = (p.centre_v + p.sine * dx + p.cosine * dy) * self.size - 0.5
        return column.astype(np.float32), row.astype(np.float32)

    def window(self, x: float, y: float, radius: float) -> tuple[slice, slice]:
        """Rows and columns of a square that holds the circle of `radius` (units of X); empty if outside."""
        p = self.pose
        dx, dy = p.half_width * x, p.height * (y - 0.5)
        column = (p.centre_u + p.cosine * dx - p.sine * dy) * self.size
        row = (p.centre_v + p.sine * dx + p.cosine * dy) * self.size
        reach = radius / self.pixel + 2.0
        rows = slice(max(0, int(row - reach)), max(0, min(self.size, int(row + reach) + 1)))
        return rows, slice(max(0, int(column - reach)), max(0, min(self.size, int(column + reach) + 1)))

    def offsets(self, where: tuple[slice, slice], x: float, y: float) -> tuple[Field, Field]:
        """Distances from (x, y) along both axes, in units of X, inside a window."""
        return self.x_SS[where] - np.float32(x), (self.y_SS[where] - np.float32(y)) * np.float32(self.aspect)

    def stroke(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        thickness: float | NDArray[np.float64],
        layer: int = TUBE,
    ) -> None:
        """A curve through anatomical points [N], N >= 2; `thickness` (cm of water at the crest) is one value or [N]."""
        column, row = self.to_pixels(x, y)
        across, down = column[1:] - column[:-1], row[1:] - row[:-1]
        along = np.zeros(len(column))
        np.cumsum(np.sqrt(across * across + down * down), out=along[1:])
        steps = max(2, int(along[-1] * 2) + 1)
        at = np.arange(steps) * (along[-1] / (steps - 1))
        flat = thickness if isinstance(thickness, float) else np.interp(at, along, thickness)
        weight = np.broadcast_to(np.float32(along[-1] / (steps - 1)) * np.asarray(flat, np.float32), at.shape)
        columns, rows = np.interp(at, along, column), np.interp(at, along, row)
        self._strokes[layer].append((columns.astype(np.float32), rows.astype(np.float32), weight))

    def dots(self, x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64], layer: int) -> None:
        """Many points at once; `weight` is thickness times the length in units of X that a point stands for."""
        column, row = self.to_pixels(x, y)
        self._strokes[layer].append((column, row, (weight / self.pixel).astype(np.float32)))

    def take_strokes(self) -> Field:
        """All strokes so far as one layer [S, S] in cm of water, and forget them.

        Thick layers are blurred together with the thinner ones that follow, so that each costs one blur.
        """
        total: NDArray[np.float64] | None = None
        for layer in range(len(LAYERS) - 1, -1, -1):
            sigma = LAYERS[layer] * self.size
            if self._strokes[layer]:
                column, row, weight = (np.concatenate(parts) for parts in zip(*self._strokes[layer], strict=True))
                drawn = _splat(column, row, weight * np.float32(2.5066 * sigma), self.size)
                total = drawn if total is None else total + drawn
            self._strokes[layer] = []
            below = LAYERS[layer - 1] * self.size if layer else 0.0
            if total is not None:
                more = (sigma * sigma - below * below) ** 0.5
                total = blur(total, more)
        if total is None:
            return np.zeros((self.size, self.size), np.float32)
        return total.astype(np.float32)


def blur(image: NDArray[Any], sigma: float) -> NDArray[Any]:
    """A Gaussian of `sigma` pixels, cut at 2.5 of them; beyond the edges the image goes on as it ends."""
    kernel = _gaussian(sigma)
    rows = ndimage.correlate1d(image, kernel, axis=0, mode="nearest")
    return np.asarray(ndimage.correlate1d(rows, kernel, axis=1, mode="nearest"))


@lru_cache(maxsize=1024)
def _gaussian(sigma: float) -> NDArray[np.float64]:
    reach = int(2.5 * sigma + 0.5)
    weights = np.array([math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)])
    return np.asarray(weights / math.fsum(weights))


def _splat(column: Field, row: Field, weight: Field, size: int) -> NDArray[np.float64]:
    """Each point's weight shared by the four pixels around it."""
    inside = (column > 0) & (column < size - 1) & (row > 0) & (row < size - 1)
    column, row, weight = column[inside], row[inside], weight[inside]
    left, top = column.astype(np.int64), row.astype(np.int64)
    fx, fy = column - left, row - top
    index = top * size + left
    wx, wy = weight * fx, weight * (1 - fx)
    flat = np.bincount(
        np.concatenate([index, index + 1, index + size, index + size + 1]),
        np.concatenate([wy * (1 - fy), wx * (1 - fy), wy * fy, wx * fy]),
        minlength=size * size,
    )
    return np.asarray(flat, np.float64).reshape(size, size)


@dataclass(frozen=True, slots=True)
class Table:
    """A function of one coordinate, sampled finely: looking up costs less than computing."""

    values: Field
    steps: Field  # from each value to the next
    low: float
    scale: float

    @classmethod
    def of(
        cls, knots: NDArray[np.float64], values: NDArray[np.float64], low: float, high: float, smooth: int = 1
    ) -> Table:
        """The curve through (knots, values), tabulated on [low, high]; constant outside.

        smooth: corners are rounded by a moving mean, taken twice, over so many of the 512 entries.
        """
        curve = np.interp(_grid(low, high), knots, values)
        if smooth > 1:
            curve = ndimage.uniform_filter1d(
                ndimage.uniform_filter1d(curve, smooth, mode="nearest"), smooth, mode="nearest"
            )
        sampled = curve.astype(np.float32)
        steps = np.zeros_like(sampled)
        np.subtract(sampled[1:], sampled[:-1], out=steps[:-1])
        return cls(sampled, steps, low, (_TABLE - 1) / (high - low))

    def __call__(self, x: Field) -> Field:
        position = (x - np.float32(self.low)) * np.float32(self.scale)
        position = np.minimum(np.maximum(position, np.float32(0)), np.float32(_TABLE - 1.001))
        index = position.astype(np.int32)
        start = self.values.take(index)
        position -= index
        position *= self.steps.take(index)
        return np.asarray(start + position, np.float32)

    def at(self, x: float) -> float:
        """One value."""
        return float(self(np.array([x], np.float32))[0])


def ramp(z: Field) -> Field:
    """0 below z = -1, 1 above z = 1, smooth between."""
    t = np.minimum(np.maximum(z * np.float32(0.5) + np.float32(0.5), np.float32(0)), np.float32(1))
    return np.asarray(t * t * (np.float32(3) - np.float32(2) * t), np.float32)


def bump(r2: Field) -> Field:
    """1 at the middle, 0 from r2 = 1 on: a bell of r squared with an end."""
    t = np.maximum(np.float32(1) - r2, np.float32(0))
    return np.asarray(t * t, np.float32)


def dome(r2: Field) -> Field:
    """Half the thickness of a ball along the ray: sqrt(1 - r squared), 0 outside."""
    return np.asarray(np.sqrt(np.maximum(np.float32(1) - r2, np.float32(0))), np.float32)


def rise(z: Field) -> Field:
    """A quarter circle from (0, 0) to (1, 1), then flat: how thickness grows behind a rounded edge."""
    t = np.minimum(np.maximum(z, np.float32(0)), np.float32(1))
    return np.asarray(np.sqrt(t * (np.float32(2) - t)), np.float32)


@lru_cache(maxsize=16)
def _grid(low: float, high: float) -> NDArray[np.float64]:
    return np.linspace(low, high, _TABLE)


@lru_cache(maxsize=64)
def _weights(size: int, cells: int) -> tuple[NDArray[np.int64], Field]:
    position = (np.arange(size) + 0.5) / size * cells
    index = np.minimum(position.astype(np.int64), cells - 1)
    t = position - index
    return index, (t * t * (3 - 2 * t)).astype(np.float32)


def cloud(rng: np.random.Generator, cells: int, size: int) -> Field:
    """Value noise [size, size] with `cells` bumps per side: smooth, mean about 0, within [-1, 1]."""
    knots = rng.random((cells + 1, cells + 1), dtype=np.float32) * np.float32(2) - np.float32(1)
    index, t = _weights(size, cells)
    rows = knots[index] + (knots[index + 1] - knots[index]) * t[:, None]
    start = rows[:, index]
    return np.asarray(start + (rows[:, index + 1] - start) * t, np.float32)


@dataclass(slots=True)
class Lung:
    """One lung on the board, inside the columns `where`."""

    side: int
    where: tuple[slice, slice]
    a: Field  # distance from the midline
    y: Field
    from_wall: Field  # distance inwards from the lateral wall, units of X
    from_middle: Field  # distance outwards from the mediastinum
    depth: Field  # path through the lung along the ray, 0 to 1
    apex: float  # Y of the top
    corner: float  # Y of the costophrenic angle
    lateral: Table  # of Y
    diaphragm: Table  # of a
    density: Field = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # of lung tissue; water is 1
    markings: Field = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # share of the vessels that is seen
