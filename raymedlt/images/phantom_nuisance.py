"""What differs between two X-rays of the same chest: view, pose, exposure, blur, noise, borders, letters, loose wires.

None of it depends on the findings, with three mild links that real hospitals have too: patients with a tube or a
central line are mostly seen in AP view (lying, heart magnified, diaphragm higher); AP images carry more ECG leads; and
automatic exposure sets the grey levels by what is in the image, so a white lung darkens the rest a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymedlt.images.phantom_canvas import FINE, TUBE, Board, Field, Pose, blur, cloud
from raymedlt.seeds import keyed_seed

_AP_SHARE, _AP_SHARE_OF_BEDRIDDEN = 0.18, 0.80
_GLYPHS = {
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}
_CURVE = 4096  # entries of the film's characteristic curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisance:
    """One exposure."""

    ap: bool
    pose: Pose
    low: float  # shifts of the automatic window
    high: float
    gamma: float
    contrast: float
    black: float
    white: float
    shading: float  # slow brightness changes over the image
    noise: float  # grey levels
    blur: float  # standard deviation, part of the image
    border: tuple[float, float, float, float]  # collimated away: top, bottom, left, right
    letter: str
    letter_side: int
    letter_x: float
    letter_y: float
    letter_size: float
    leads: int


def view_of(seed: int, image_id: str, bedridden: bool) -> str:
    """ "AP" or "PA". bedridden: the patient has a tube or a central line."""
    u = keyed_seed(seed, "phantom", image_id, "view") / 2.0**63
    return "AP" if u < (_AP_SHARE_OF_BEDRIDDEN if bedridden else _AP_SHARE) else "PA"


def exposure(rng: np.random.Generator, view: str, aspect: float) -> Nuisance:
    """One exposure's nuisance. Number and order of the draws are fixed.

    Args:
        aspect: height of the patient's lungs over half the width of the thorax, which the pose keeps.
    """
    ap = view == "AP"
    n, u = rng.standard_normal(16), rng.random(20)
    half = float(np.clip(0.38 + 0.022 * n[0] + (0.012 if ap else 0), 0.33, 0.45))
    height = half * aspect
    if height > 0.80:
        half, height = half * 0.80 / height, 0.80
    angle = float(np.clip((0.028 if not ap else 0.045) * n[1], -0.14, 0.14))
    tangent = angle / 2
    pose = Pose(
        centre_u=float(0.5 + 0.018 * n[2]),
        centre_v=float(0.475 + 0.022 * n[3] + (0.01 if ap else 0)),
        half_width=half,
        height=height,
        sine=2 * tangent / (1 + tangent * tangent),
        cosine=(1 - tangent * tangent) / (1 + tangent * tangent),
    )
    edges = [float(0.012 + 0.05 * u[5 + i]) if u[i] < 0.13 else 0.0 for i in range(4)]
    names = ("L", "L", "R", "L", "AP L" if ap else "PA", "PORT" if ap else "L")
    letter = names[int(u[9] * len(names))] if u[10] < 0.62 else ""
    return Nuisance(
        ap=ap,
        pose=pose,
        low=float(0.055 * n[4]),
        high=float(0.06 * n[5]),
        gamma=float(np.clip(1.0 + 0.22 * n[6], 0.6, 1.7)),
        contrast=float(np.clip(0.55 + 0.25 * n[7], 0.0, 1.1)),
        black=float(6 + 14 * u[11]),
        white=float(247 - 40 * u[12]),
        shading=float(0.035 + 0.035 * u[13]),
        noise=float(1.2 + 2.6 * u[14] * u[14] + (1.0 if ap else 0.0)),
        blur=float(0.0012 + 0.0026 * u[15] * u[15]),
        border=(edges[0], edges[1], edges[2], edges[3]),
        letter=letter,
        letter_side=-1 if letter == "R" else 1,
        letter_x=float(0.03 + 0.05 * u[16]),
        letter_y=float(0.03 + 0.13 * u[17]),
        letter_size=float(0.008 + 0.005 * u[18]),
        leads=int(2 + 3 * u[8]) if u[19] < (0.45 if ap else 0.05) else 0,
    )


def loose_wires(board: Board, rng: np.random.Generator, count: int) -> None:
    """ECG electrodes on the chest, each with a wire that leaves the image."""
    for _ in range(count):
        u = rng.random(8)
        x, y = 1.5 * u[0] - 0.75, 0.12 + 0.75 * u[1]
        goal = (np.sign(x) * (0.9 + 0.5 * u[2]), 1.3) if u[3] < 0.5 else (x * 0.4 + 0.5 * (u[2] - 0.5), 1.35)
        t = np.linspace(0.0, 1.0, 20)
        sag = 0.35 * (u[4] - 0.5) * 4 * t * (1 - t)
        board.stroke(x + (goal[0] - x) * t + sag, y + (goal[1] - y) * t + 0.4 * sag, 1.5, FINE)
        turn = np.linspace(0.0, 6.2832, 14)
        board.stroke(x + 0.035 * np.cos(turn), y + 0.035 * np.sin(turn) / board.aspect, 2.2, FINE)
        board.stroke(np.array([x - 0.012, x + 0.012]), np.array([y, y]), 3.0, TUBE)


def develop(total: Field, nuisance: Nuisance, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """From thickness [S, S] (cm of water) to grey levels [size, size]; S is a multiple of `size`."""
    working = total.shape[0]
    if nuisance.blur * working > 0.25:
        total = blur(total, nuisance.blur * working)
    factor = working // size
    small = _shrink(total, factor)
    sample = np.sort(small[:: max(1, size // 32), :: max(1, size // 32)].ravel())
    low, high = float(sample[int(0.04 * len(sample))]), float(sample[int(0.965 * len(sample))])
    low = min(max(low, 3.0), 11.0)
    low, span = low - 0.22 * (high - low), (high - low) * 1.36
    scaled = (small - np.float32(low)) * np.float32(1 / span) - np.float32(nuisance.low)
    scaled *= np.float32(1.0 + nuisance.high)
    scaled += cloud(rng, 3, size) * np.float32(nuisance.shading)
    index = (np.clip(scaled, 0, 1) * np.float32(_CURVE - 1)).astype(np.int32)
    grey = _curve(nuisance).take(index)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    grey += grain * np.float32(nuisance.noise)
    _letters(grey, nuisance)
    _borders(grey, nuisance.border)
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)


def _shrink(image: Field, factor: int) -> Field:
    """Mean over squares of `factor` pixels."""
    if factor == 1:
        return image.astype(np.float32)
    rows = sum((image[i::factor] for i in range(1, factor)), image[0::factor])
    both = sum((rows[:, i::factor] for i in range(1, factor)), rows[:, 0::factor])
    return np.asarray(both * np.float32(1 / factor**2), np.float32)


def _curve(nuisance: Nuisance) -> Field:
    """Grey level over scaled thickness: a power, then a mild S."""
    t = np.linspace(0.0, 1.0, _CURVE) ** nuisance.gamma
    bent = t + nuisance.contrast * t * (1 - t) * (2 * t - 1)
    return (nuisance.black + (nuisance.white - nuisance.black) * bent).astype(np.float32)


def _letters(grey: Field, nuisance: Nuisance) -> None:
    size = grey.shape[0]
    dot = nuisance.letter_size * size
    if not nuisance.letter:
        return
    rows = np.array(
        [[int(c) for letter in nuisance.letter for c in _GLYPHS[letter].split()[i] + "0"] for i in range(7)]
    )
    height, width = max(5, round(7 * dot)), max(4, round(rows.shape[1] * dot))
    down = (2 * np.arange(height) + 1) * 7 // (2 * height)
    across = (2 * np.arange(width) + 1) * rows.shape[1] // (2 * width)
    glyph = rows[down][:, across]
    top = round(nuisance.letter_y * size)
    left = round(nuisance.letter_x * size)
    left = size - left - width if nuisance.letter_side > 0 else left
    place = grey[max(top, 0) : top + height, max(left, 0) : left + width]
    part = glyph[: place.shape[0], : place.shape[1]]
    place += (np.float32(250) - place) * part.astype(np.float32) * np.float32(0.85)


def _borders(grey: Field, border: tuple[float, float, float, float]) -> None:
    size = grey.shape[0]
    top, bottom, left, right = (round(edge * size) for edge in border)
    grey[:top] = 2
    grey[size - bottom :] = 2
    grey[:, :left] = 2
    grey[:, size - right :] = 2
