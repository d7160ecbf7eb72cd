"""What disease puts into the phantom's lungs and pleura."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymedlt.images.phantom_canvas import FINE, TUBE, Board, Field, Lung, bump, cloud, dome, ramp
from raymedlt.images.phantom_findings import Paint, Scene, ball

F = np.float32


# Pleura


def _fill(lung: Lung, share: Field) -> None:
    """Replace so much of the lung's air by water."""
    lung.density = F(1) - (F(1) - lung.density) * (F(1) - np.clip(share, 0, 1))


def _effusion(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    height = (0.10 + 0.52 * severity) * (0.9 + 0.2 * float(rng.random()))
    wall = np.clip(F(1) - lung.from_wall * F(1 / 0.55), 0, 1)
    middle = np.clip(F(1) - lung.from_middle * F(1 / 0.25), 0, 1)
    level = F(lung.corner + 0.02) - F(height) * (F(0.42) + F(0.58) * wall * wall + F(0.12) * middle * middle)
    soft = 0.022 + 0.05 * severity
    _fill(lung, ramp((lung.y - level) * F(1 / soft)) * F(0.97))
    veil = np.clip(F(1) - (level - lung.y) * F(1 / (0.30 * severity + 0.05)), 0, 1)
    _fill(lung, veil * F(0.10 + 0.12 * severity))


def _blunting(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    reach = 0.16 + 0.22 * severity
    wall = np.clip(F(1) - lung.from_wall * F(1 / reach), 0, 1)
    level = F(lung.corner + 0.01) - F(0.08 + 0.13 * severity) * wall * wall
    near = ramp((F(reach * 1.3) - lung.from_wall) * F(12))
    _fill(lung, ramp((lung.y - level) * F(1 / 0.014)) * near * F(0.95))


def _pneumothorax(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    width = 0.055 + 0.27 * severity * severity + 0.12 * severity
    top = width * (1.25 + 0.5 * float(rng.random())) / scene.board.aspect
    taper = F(width) * (F(1.0) - F(0.75 * (1 - 0.7 * severity)) * np.clip(lung.y, 0, 1))
    inward = lung.from_wall - taper
    below = (lung.y - F(lung.apex + top)) * F(scene.board.aspect)
    bend = F(0.12 + 0.30 * severity)  # the collapsed lung's shoulder is round
    gap = bend - np.sqrt(np.maximum(bend - inward, 0) ** 2 + np.maximum(bend - below, 0) ** 2)  # > 0: lung
    edge = F(1 / max(0.010, scene.board.pixel))
    kept = ramp(gap * edge)
    lung.density = lung.density * (F(1) + F(0.9 * severity)) * kept
    lung.markings = lung.markings * kept
    line = bump((gap * F(1 / max(0.016, 1.2 * scene.board.pixel))) ** 2)
    scene.water[lung.where] += line * F(0.55 + 0.5 * severity) * np.minimum(lung.depth * F(1.5), 1)


def _pleural_thickening(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    u = rng.random(3)
    top, bottom = 0.15 + 0.35 * u[0], 0.70 + 0.25 * u[1]
    uneven = cloud(rng, 11, scene.board.size)[lung.where]
    width = F(0.025 + 0.085 * severity) * (F(1) + F(0.5) * uneven)
    along = ramp((lung.y - F(top)) * F(9)) * ramp((F(bottom) - lung.y) * F(9))
    band = ramp((width * along - lung.from_wall) * F(1 / max(0.012, scene.board.pixel)))
    _fill(lung, band * F(0.9) * (along > 0.02))
    scene.water[lung.where] += band * along * F(0.9 + 1.6 * severity)


def _apical_thickening(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    uneven = cloud(rng, 13, scene.board.size)[lung.where]
    thick = F(0.035 + 0.115 * severity) * (F(1) + F(0.35) * uneven)
    top = (lung.y - F(lung.apex)) * F(scene.board.aspect)
    gap = np.minimum(top, lung.from_wall + lung.y * F(0.9)) - thick
    cap = ramp(-gap * F(1 / 0.03))
    _fill(lung, cap * F(0.9))
    scene.water[lung.where] += cap * F(0.6 + 1.5 * severity) * np.minimum(lung.depth * F(3), 1)


# Lung


def _spot(lung: Lung, board: Board, a: float, y: float, wide: float, high: float) -> Field:
    """r squared around (a, y); wide, high in units of X."""
    return ((lung.a - F(a)) * F(1 / wide)) ** 2 + ((lung.y - F(y)) * F(board.aspect / high)) ** 2


def _fluffy(rng: np.random.Generator, size: int, lung: Lung, cells: int = 19) -> Field:
    return cloud(rng, cells, size)[lung.where] * F(0.6) + cloud(rng, 2 * cells, size)[lung.where] * F(0.4)


def _consolidation(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A lobe or most of it: dense, with a straight border at the fissure."""
    lung, u = scene.lung(side), rng.random(5)
    upper = u[0] < 0.35
    fissure = 0.46 + 0.08 * u[1]
    a, y = 0.42 + 0.28 * u[2], (fissure - 0.16 if upper else fissure + 0.20)
    size = 0.30 + 0.28 * severity
    body = bump(_spot(lung, scene.board, a, y, size * 1.35, size * 1.25) * F(0.75))
    side_of_fissure = F(fissure) - lung.y if upper else lung.y - F(fissure)
    wavy = cloud(rng, 7, scene.board.size)[lung.where] * F(0.022)
    body *= ramp((side_of_fissure + F(0.16 * (u[3] - 0.5)) * (lung.a - F(0.5)) + wavy) * F(1 / 0.018))
    texture = F(1) + F(0.35) * _fluffy(rng, scene.board.size, lung)
    share = np.clip(body * F(1.9) * texture, 0, 1) * F(0.28 + 0.58 * severity)
    _fill(lung, share)
    _bronchogram(scene, lung, a, y, size, severity, rng)


def _bronchogram(
    scene: Scene, lung: Lung, a: float, y: float, size: float, severity: float, rng: np.random.Generator
) -> None:
    for _ in range(3):
        angle = float(rng.normal(0.0, 0.35))
        t = np.linspace(0.15, 0.95, 8)
        to_a, to_y = a + 0.5 * size * np.cos(angle), y + 0.5 * size * np.sin(angle) / scene.board.aspect
        xs = lung.side * (0.22 + (to_a - 0.22) * t)
        scene.board.stroke(xs, 0.42 + (to_y - 0.42) * t, -0.9 * severity, FINE)


def _pneumonia(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A segment's airspace filled: fluffy edges, air in the bronchi."""
    lung, u = scene.lung(side), rng.random(4)
    a, y = 0.38 + 0.34 * u[0], 0.36 + 0.46 * u[1]
    wide, high = (0.26 + 0.24 * severity) * (0.85 + 0.3 * u[2]), (0.24 + 0.22 * severity) * (0.85 + 0.3 * u[3])
    body = bump(_spot(lung, scene.board, a, y, wide, high) + F(0.30) * _fluffy(rng, scene.board.size, lung))
    _fill(lung, np.clip(body * F(1.25), 0, 1) * F(0.24 + 0.48 * severity))
    _bronchogram(scene, lung, a, y, wide, 0.6 * severity, rng)


def _infiltrates(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Several faint patches without borders."""
    lung = scene.lung(side)
    share = np.zeros_like(lung.a)
    for _ in range(3 + int(3 * severity)):
        u = rng.random(4)
        radius = 0.13 + 0.14 * u[2]
        share += bump(_spot(lung, scene.board, 0.28 + 0.5 * u[0], 0.28 + 0.58 * u[1], radius, radius)) * F(
            0.6 + 0.6 * u[3]
        )
    texture = F(1) + F(0.8) * _fluffy(rng, scene.board.size, lung, 23)
    _fill(lung, np.clip(share * texture, 0, 1.2) * F(0.10 + 0.34 * severity))


def _atelectasis(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A collapsed lower (or upper) lobe: a wedge beside the mediastinum; shapes moved already."""
    lung, u = scene.lung(side), rng.random(3)
    reach = 0.20 + 0.34 * severity
    if u[0] < 0.72:
        start = 0.50 - 0.10 * u[1]
        edge = F(0.12) + F(reach) * np.clip((lung.y - F(start)) * F(1 / 0.45), 0, 1.1)
        inside = ramp((edge - lung.a) * F(1 / 0.03)) * ramp((lung.y - F(start)) * F(12))
    else:
        start = 0.40 - 0.08 * u[1] - 0.06 * severity
        edge = F(start) - F(0.22) * np.clip(lung.a - F(0.2), 0, 1)
        inside = ramp((edge - lung.y) * F(1 / 0.02))
    _fill(lung, inside * F(0.30 + 0.58 * severity))


def _plates(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Laminar atelectasis: one to three bands across the lung's base."""
    lung = scene.lung(side)
    for _ in range(1 + int(2.4 * severity)):
        u = rng.random(5)
        start, length = 0.25 + 0.25 * u[0], 0.26 + 0.30 * u[1]
        y = float(lung.diaphragm.at(0.5)) - 0.04 - 0.17 * u[2]
        t = np.linspace(0.0, 1.0, 12)
        rows = y + (0.14 * (u[3] - 0.5)) * t + 0.02 * (u[4] - 0.5) * 4 * t * (1 - t)
        profile = (1.5 + 2.8 * severity) * np.minimum(1, 6 * np.minimum(t, 1 - t) + 0.15)
        scene.board.stroke(lung.side * (start + length * t), rows, profile, TUBE)


def _place(lung: Lung, u: NDArray[np.float64], margin: float) -> tuple[float, float]:
    """A point inside the lung: X and Y."""
    y = 0.16 + 0.62 * float(u[1])
    inner, outer = 0.24 + margin, lung.lateral.at(y) - 0.07 - margin
    return lung.side * (inner + max(outer - inner, 0.02) * float(u[0])), y


def _nodule(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    u = rng.random(4)
    x, y = _place(scene.lung(side), u, 0.0)
    ball(scene, x, y, 0.060 + 0.060 * severity, 2.4 + 3.2 * severity, 0.2 * (u[2] - 0.5))


def _mass(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    u = rng.random(8)
    x, y = _place(scene.lung(side), u, 0.08)
    radius = 0.13 + 0.15 * severity
    ball(scene, x, y, radius, 2.3 + 3.6 * severity, 0.25 * (u[2] - 0.5))
    for i in (3, 5):  # lobes
        ball(scene, x + (u[i] - 0.5) * radius, y + (u[i + 1] - 0.5) * radius * 0.6, radius * 0.7, 0.8 + 1.0 * severity)


def _granuloma(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    for _ in range(1 + int(3 * severity)):
        u = rng.random(3)
        x, y = _place(scene.lung(side), u, 0.0)
        ball(scene, x, y, 0.038 + 0.020 * severity, 4.2 + 4.6 * severity)


def _cavity(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A ring with a thick wall, now and then with fluid at its bottom."""
    lung, u = scene.lung(side), rng.random(5)
    x, y = _place(lung, u, 0.06)
    y = 0.14 + 0.6 * (y - 0.14)
    radius = 0.095 + 0.10 * severity
    inner = radius * (0.52 + 0.16 * u[2])
    where = scene.board.window(x, y, radius * 1.2)
    dx, dy = scene.board.offsets(where, x, y)
    r2 = dx * dx + dy * dy
    hole = dome(r2 * F(1 / inner**2))
    if u[3] < 0.4:
        hole = hole * ramp((F(inner * 0.3) - dy) * F(30))
    scene.water[where] += F(2.5 + 2.9 * severity) * dome(r2 * F(1 / radius**2)) - F(3.5 + 3.3 * severity) * hole


def _bullae(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Air without tissue behind a thin wall, mostly at the top."""
    lung = scene.lung(side)
    for _ in range(1 + int(2.5 * severity)):
        u = rng.random(3)
        radius = 0.13 + 0.16 * severity * (0.6 + 0.4 * u[2])
        y = 0.10 + 0.30 * u[1]
        a = 0.35 + max(lung.lateral.at(y) - 0.40, 0.05) * u[0]
        r2 = _spot(lung, scene.board, a, y, radius, radius)
        inside = ramp((F(1) - r2) * F(5))
        lung.density = lung.density * (F(1) - inside * F(0.35 + 0.5 * severity))
        lung.markings = lung.markings * (F(1) - inside)
        wall = bump(((r2 - F(1)) * F(radius / max(0.055, 2.2 * scene.board.pixel))) ** 2)
        scene.water[lung.where] += wall * F(0.5 + 0.6 * severity) * np.minimum(lung.depth * F(2), 1)


def _edema(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Bat wings around the hilum, blurred vessels, Kerley B lines at the base."""
    lung = scene.lung(side)
    wing = bump(_spot(lung, scene.board, 0.30, 0.47, 0.62, 0.78))
    texture = F(1) + F(0.55) * _fluffy(rng, scene.board.size, lung)
    share = np.clip(wing * texture * F(1.25), 0, 1) * F(0.10 + 0.50 * severity)
    _fill(lung, share + F(0.03 + 0.07 * severity))
    lung.markings = lung.markings * (F(1) + F(0.5 * severity) * ramp((F(0.35) - lung.y) * F(6)))
    for row in np.arange(0.66, 0.92, 0.026):
        y = float(row + 0.010 * rng.random())
        outer, length = lung.lateral.at(y) - 0.015, 0.07 + 0.06 * float(rng.random())
        ends = lung.side * np.array([outer, outer - length])
        scene.board.stroke(ends, np.array([y, y + 0.004]), 0.7 + 1.3 * severity, FINE)


def _net(scene: Scene, lung: Lung, rng: np.random.Generator, cells: int) -> Field:
    """Thin lines around small cells, 0 to 1: where noise crosses zero."""
    first, second = cloud(rng, cells, scene.board.size)[lung.where], cloud(rng, cells, scene.board.size)[lung.where]
    return np.maximum(bump((first * F(3.2)) ** 2), bump((second * F(3.2)) ** 2))


def _interstitial(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    lung = scene.lung(side)
    zone = F(0.55) + F(0.45) * ramp((lung.y - F(0.5)) * F(3))
    lines = _net(scene, lung, rng, 25)
    scene.water[lung.where] += lines * zone * lung.depth * F(0.6 + 1.6 * severity)
    _fill(lung, zone * F(0.02 + 0.08 * severity))


def _fibrosis(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Coarse net at the base and along the wall; the lungs shrank already."""
    lung = scene.lung(side)
    zone = ramp((lung.y - F(0.62)) * F(5)) + F(0.8) * ramp((F(0.22) - lung.from_wall) * F(8)) * ramp(
        (lung.y - F(0.3)) * F(5)
    )
    zone = np.minimum(zone, 1)
    lines = _net(scene, lung, rng, 19)
    scene.water[lung.where] += lines * zone * np.minimum(lung.depth * F(1.5), 1) * F(0.7 + 2.0 * severity)
    _fill(lung, zone * F(0.05 + 0.17 * severity))


def _bands(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Fibrotic bands: irregular oblique lines, mostly from the hilum upwards or to the wall."""
    lung = scene.lung(side)
    for _ in range(2 + int(3 * severity)):
        u = rng.random(6)
        x, y = _place(lung, u, 0.13)
        angle, length = 6.2832 * u[2], 0.22 + 0.28 * u[3]
        t = np.linspace(-0.5, 0.5, 12)
        rows = y + length * np.sin(angle) * t / scene.board.aspect + 0.012 * np.cumsum(rng.normal(0, 0.35, 12))
        scene.board.stroke(x + length * np.cos(angle) * t, rows, 3.0 + 4.4 * severity * (0.5 + 0.5 * u[4]), FINE)


def _crowded_bronchi(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """COPD: thick bronchial walls beside the hila."""
    lung = scene.lung(side)
    lines = _net(scene, lung, rng, 29) * bump(_spot(lung, scene.board, 0.30, 0.50, 0.55, 0.65))
    scene.water[lung.where] += lines * lung.depth * F(0.3 + 0.9 * severity)


LUNG_AND_PLEURA: dict[str, Paint] = {
    "Pleural effusion": _effusion,
    "Costophrenic angle blunting": _blunting,
    "Pneumothorax": _pneumothorax,
    "Pleural thickening": _pleural_thickening,
    "Apical pleural thickening": _apical_thickening,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Infiltrates": _infiltrates,
    "Atelectasis": _atelectasis,
    "Laminar atelectasis": _plates,
    "Nodule": _nodule,
    "Mass": _mass,
    "Calcified granuloma": _granuloma,
    "Cavitation": _cavity,
    "Bullae": _bullae,
    "Pulmonary edema": _edema,
    "Interstitial pattern": _interstitial,
    "Pulmonary fibrosis": _fibrosis,
    "Fibrotic band": _bands,
    "COPD signs": _crowded_bronchi,
}
