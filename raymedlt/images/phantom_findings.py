"""What disease does to the phantom: first to shapes (heart, diaphragm, spine), then to what fills lungs and pleura.

Each drawer gets a severity in (0, 1] and its own random generator, keyed by patient, finding and side: a nodule lies
where it lay in the patient's last image. Sizes and densities grow with severity from "hardly seen" to "plain".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raymedlt.images.phantom_body import Body
from raymedlt.images.phantom_canvas import FINE, TUBE, Board, Field, Lung, dome, ramp

F = np.float32


@dataclass(slots=True)
class Scene:
    """What the density drawers change."""

    board: Board
    body: Body
    parts: list[Lung]  # patient's right, left
    water: Field  # [S, S]: everything beside lungs and soft tissue, cm

    def lung(self, side: int) -> Lung:
        return self.parts[0 if side < 0 else 1]


Reshape = Callable[[Body, int, float, np.random.Generator], None]
Paint = Callable[[Scene, int, float, np.random.Generator], None]


def ball(scene: Scene, x: float, y: float, radius: float, thickness: float, wobble: float = 0.0) -> None:
    where = scene.board.window(x, y, radius * 1.4)
    dx, dy = scene.board.offsets(where, x, y)
    r2 = (dx * dx + dy * dy) * F(1 / radius**2)
    if wobble:
        r2 = r2 * (F(1) + F(wobble) * dx * dy * F(1 / radius**2)) + F(wobble * 0.3) * (dx - dy) * F(1 / radius)
    scene.water[where] += F(thickness) * dome(r2)


# Shapes


def _cardiomegaly(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.heart_ratio += 0.045 + 0.17 * severity
    body.heart_left = min(body.heart_left + 0.03 * severity, 0.78)
    body.heart_tilt = max(body.heart_tilt - 0.15 * severity, 0.3)


def _long_aorta(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.knob += 0.012 + 0.045 * severity
    body.aorta_bulge += 0.03 + 0.10 * severity
    body.ascending += 0.01 + 0.055 * severity


def _wide_mediastinum(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.upper_width += 0.03 + 0.13 * severity
    body.trachea += float(rng.choice([-1.0, 1.0])) * (0.02 + 0.06 * severity)


def _large_hilum(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.hila[0 if side < 0 else 1] *= 1.22 + 0.65 * severity


def _scoliosis(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.spine_bow = (side or 1) * (0.045 + 0.20 * severity)
    body.spine_phase = float(0.45 + 0.25 * rng.random())


def _emphysema(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.flat = min(1.0, body.flat + 0.30 + 0.60 * severity)
    body.raised = body.raised - (0.01 + 0.03 * severity)
    body.heart_ratio *= 1.0 - 0.18 * severity
    body.vessels *= 1.0 - 0.50 * severity
    body.density *= 1.0 - 0.45 * severity
    body.rib_fall *= 1.0 - 0.45 * severity
    body.rib_spacing *= 1.0 + 0.10 * severity


def _hyperinflation(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.flat = min(1.0, body.flat + 0.28 + 0.45 * severity)
    body.raised = body.raised - 0.02 * severity
    body.heart_ratio *= 1.0 - 0.10 * severity
    body.density *= 1.0 - 0.15 * severity
    body.rib_fall *= 1.0 - 0.40 * severity
    body.vessels *= 1.0 + 0.35 * severity


def _raised_diaphragm(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.raised[0 if side < 0 else 1] += 0.05 + 0.17 * severity


def _lost_volume(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.raised[0 if side < 0 else 1] += 0.015 + 0.075 * severity
    body.shift += side * (0.015 + 0.085 * severity)


def _shrunken(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.raised = body.raised + 0.01 + 0.05 * severity


def _small_breath(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.raised = body.raised + 0.06 + 0.13 * severity
    body.heart_ratio *= 1.0 + 0.08 * severity
    body.density += 0.02 + 0.05 * severity


def _pushed(body: Body, side: int, severity: float, rng: np.random.Generator) -> None:
    body.shift -= side * 0.12 * max(0.0, severity - 0.5)


RESHAPE: dict[str, Reshape] = {
    "Cardiomegaly": _cardiomegaly,
    "Aortic elongation": _long_aorta,
    "Superior mediastinal enlargement": _wide_mediastinum,
    "Hilar enlargement": _large_hilum,
    "Scoliosis": _scoliosis,
    "Emphysema": _emphysema,
    "COPD signs": _hyperinflation,
    "Hemidiaphragm elevation": _raised_diaphragm,
    "Atelectasis": _lost_volume,
    "Pulmonary fibrosis": _shrunken,
    "Low lung volumes": _small_breath,
    "Pleural effusion": _pushed,
    "Pneumothorax": _pushed,
}


# Diaphragm, vessels and bones


def _hiatal_hernia(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Stomach behind the heart: a round shadow with air above fluid."""
    u = rng.random(3)
    radius = 0.14 + 0.18 * severity
    x, y = 0.06 + 0.10 * (u[0] - 0.3), 0.84 - 0.35 * radius + 0.04 * u[1]
    where = scene.board.window(x, y, radius * 1.2)
    dx, dy = scene.board.offsets(where, x, y)
    r2 = (dx * dx + dy * dy) * F(1 / radius**2)
    ball = dome(r2)
    scene.water[where] += F(1.6 + 2.2 * severity) * ball
    air = dome(r2 * F(1 / 0.80**2)) * ramp((F(radius * 0.05) - dy) * F(1 / max(0.012, scene.board.pixel)))
    scene.water[where] -= F(4.2 + 4.2 * severity) * air


def _atheroma(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Lime in the wall of the aortic arch."""
    body, u = scene.body, rng.random(3)
    radius = body.knob * 0.85
    x, y = 0.058 + 1.25 * body.knob - radius + 0.3 * body.shift, 0.235
    start, length = -1.2 + 0.5 * u[0], 1.3 + 1.5 * severity
    turn = start + length * np.linspace(0, 1, 16)
    xs, ys = x + radius * np.cos(turn), y + radius * np.sin(turn) / scene.board.aspect
    scene.board.stroke(xs, ys, 4.5 + 7.0 * severity, FINE)
    if severity > 0.45:
        down = np.linspace(0.34, 0.60, 10)
        scene.board.stroke(0.19 + body.aorta_bulge * 1.8 + 0.02 * (u[1] - 0.5) + 0 * down, down, 2.5 * severity, FINE)


def _rib_fracture(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """One to three neighbouring ribs, at the side: callus around a dark gap."""
    body, lung, u = scene.body, scene.lung(side), rng.random(4)
    first = int(3 + 4 * u[0])
    for k in range(1 + int(2.5 * severity)):
        a = float(np.clip(0.66 + 0.22 * u[1], 0, lung.lateral.at(0.5)))
        t = a / (lung.lateral.at(0.5) + 0.055)
        arc = max(0.0, 1 - t * t) ** 0.5
        y = (first + k + 0.5) * body.rib_spacing - 0.015 + body.rib_fall * 1.0 * (1 - arc)
        ball(scene, side * a, y, 0.050 + 0.025 * severity, 2.4 + 3.6 * severity)
        gap = 0.05
        xs = side * np.array([a - 0.012, a + 0.012])
        scene.board.stroke(xs, np.array([y - gap, y + gap]), -1.6 - 2.0 * severity, FINE)


def _spurs(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Osteophytes: dense beaks at the edges of neighbouring vertebrae."""
    first = int(4 + 3 * rng.random())
    for k in range(3 + int(4 * severity)):
        y = (first + k) * 0.089
        for edge in (-1, 1):
            strength = (0.4 + 0.6 * float(rng.random())) * (3.0 + 4.6 * severity)
            tip = 0.125 + 0.05 * severity
            middle = scene.body.middle(y)
            xs = middle + edge * np.array([0.08, tip, tip + 0.01])
            scene.board.stroke(xs, y + np.array([0.006, 0.0, -0.012]), strength, TUBE)


BONES_AND_MORE: dict[str, Paint] = {
    "Hiatal hernia": _hiatal_hernia,
    "Aortic atheromatosis": _atheroma,
    "Rib fracture": _rib_fracture,
    "Vertebral degenerative changes": _spurs,
}
