"""Tubes, lines and wires in the phantom. A device's severity is how opaque it is: a thin catheter or a marked one."""

from __future__ import annotations

import numpy as np

from raymedlt.images.phantom_canvas import FINE, TUBE, ramp
from raymedlt.images.phantom_findings import Paint, Scene

F = np.float32


def _curve(points: list[tuple[float, float]], steps: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A smooth curve through a few points: Catmull-Rom."""
    p = np.array([points[0], *points, points[-1]], np.float64)
    t = np.linspace(0, len(points) - 1 - 1e-9, steps)
    i = t.astype(int)
    t = (t - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    curve = b + t * (0.5 * (c - a) + t * (a - 2.5 * b + 2 * c - 0.5 * d + t * (1.5 * (b - c) + 0.5 * (d - a))))
    return curve[:, 0], curve[:, 1]


def _pacemaker(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A can below the clavicle with one to three leads through the cava into the heart."""
    u = rng.random(8)
    x, y = side * (0.74 + 0.16 * u[0]), 0.17 + 0.08 * u[1]
    where = scene.board.window(x, y, 0.26)
    dx, dy = scene.board.offsets(where, x, y)
    box = np.maximum(np.abs(dx) * F(1 / 0.115), np.abs(dy) * F(1 / 0.10))
    ball = (dx * F(1 / 0.135)) ** 2 + (dy * F(1 / 0.115)) ** 2
    scene.water[where] += ramp((F(1) - np.maximum(box, ball)) * F(6)) * F(3.5 + 4.5 * severity)
    shift, ratio = scene.body.shift, scene.body.heart_ratio
    goals = [(0.30 * ratio / 0.44 + shift, 0.80), (-0.16 + shift, 0.60), (0.42 * ratio / 0.44 + shift, 0.62)]
    for k in range(1 + int(2.6 * u[2])):
        goal = (goals[k][0] + 0.05 * (u[3] - 0.5), goals[k][1] + 0.03 * (u[4] - 0.5))
        path = [(x, y - 0.03), (side * 0.55, 0.10), (side * 0.16 - 0.02, 0.16), (-0.09, 0.34), (-0.11, 0.56), goal]
        scene.board.stroke(*_curve(path), 1.8 + 1.8 * severity, FINE)
        tip = np.array(goal)
        scene.board.stroke(tip[0] + np.array([-0.02, 0.02]), tip[1] + np.array([0.0, 0.004]), 4.0, FINE)


def _central_line(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Through the jugular or the subclavian vein into the cava; now and then with a port on the chest."""
    u = rng.random(6)
    tip = (-0.09 + 0.03 * u[0] + scene.body.shift * 0.5, 0.36 + 0.20 * u[1])
    if u[2] < 0.5:
        path = [(side * 0.28, -0.28), (side * 0.20, -0.02), (side * 0.10 - 0.04, 0.14), (-0.10, 0.28), tip]
    else:
        path = [(side * 1.0, 0.28 + 0.1 * u[5]), (side * 0.80, 0.12), (side * 0.42, 0.075), (side * 0.1 - 0.04, 0.14)]
        path += [(-0.10, 0.27), tip]
        if u[3] < 0.5:
            turn = np.linspace(0, 6.2832, 12)
            x, y = path[0]
            scene.board.stroke(x * 0.85 + 0.05 * np.cos(turn), y + 0.05 * np.sin(turn) / scene.board.aspect, 3.0, TUBE)
            path[0] = (x * 0.85, y)
    scene.board.stroke(*_curve(path), 3.2 + 2.8 * severity, FINE)


def _feeding_tube(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Down the oesophagus into the stomach."""
    u = rng.random(4)
    end = float(scene.body.outline.diaphragm[1][8]) - float(scene.body.raised[1]) + 0.06
    bow = scene.body.middle(0.5) * 0.8 + scene.body.shift * 0.3
    path = [(0.01, -0.30), (0.035, 0.02), (0.03 + bow, 0.32), (0.05 + bow, 0.62), (0.11 + bow * 0.5, 0.86)]
    path += [(0.24 + 0.1 * u[0], end + 0.03), (0.34 + 0.2 * u[1], end + 0.10 * (u[2] - 0.3))]
    scene.board.stroke(*_curve(path, 36), 3.0 + 2.5 * severity, FINE)


def _breathing_tube(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """In the trachea, its end above the carina: two walls and a bright marker thread."""
    u = rng.random(3)
    end = 0.16 + 0.11 * u[0]
    level = np.linspace(-0.30, end, 10)
    x = 0.012 + 0.7 * scene.body.spine(level) + 0.02 * (u[1] - 0.5) * (level + 0.3)
    scene.board.stroke(x - 0.028, level, 2.2 + 1.5 * severity, FINE)
    scene.board.stroke(x + 0.028, level, 3.2 + 2.8 * severity, FINE)
    scene.board.stroke(x, level, 0.9 + 0.6 * severity, TUBE)


def _wires(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Five to seven twisted loops that hold the breastbone."""
    u = rng.random(10)
    count = 5 + int(2.9 * u[0])
    for k in range(count):
        y = 0.22 + (0.50 + 0.08 * u[1]) * k / (count - 1)
        x = 0.012 * (u[2] - 0.5) + 0.02 * (u[3 + k % 6] - 0.5) + scene.body.shift * 0.2
        turn = np.linspace(0, 6.2832, 14)
        high = 0.016 + 0.008 * u[9]
        xs, ys = x + (0.045 + 0.01 * u[8]) * np.cos(turn), y + high * np.sin(turn)
        scene.board.stroke(xs, ys, 4.0 + 3.5 * severity, FINE)
        scene.board.stroke(np.array([x + 0.01, x - 0.01]), np.array([y + high, y + high + 0.012]), 4.5, FINE)


def _drain(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """A chest tube between the ribs, up along the wall to the apex."""
    u = rng.random(4)
    lung = scene.lung(side)
    y = 0.60 + 0.16 * u[0]
    wall = lung.lateral.at(y)
    path = [(side * (wall + 0.38), y + 0.12), (side * (wall + 0.05), y), (side * (wall - 0.12), y - 0.14)]
    path += [(side * (0.62 + 0.08 * u[1]), 0.32), (side * (0.45 + 0.12 * u[2]), 0.12 + 0.08 * u[3])]
    xs, ys = _curve(path, 30)
    scene.board.stroke(xs, ys, 1.5 + 1.0 * severity, TUBE)
    scene.board.stroke(xs, ys, 1.6 + 1.6 * severity, FINE)


def _cannula(scene: Scene, side: int, severity: float, rng: np.random.Generator) -> None:
    """Tracheostomy tube: a short wide bent tube with a plate at the neck."""
    u = rng.random(2)
    level = np.linspace(-0.12, 0.07 + 0.05 * u[0], 8)
    x = 0.012 + 0.7 * scene.body.spine(level)
    for edge in (-0.035, 0.035):
        scene.board.stroke(x + edge, level, 3.0 + 2.5 * severity, FINE)
    scene.board.stroke(np.array([-0.13, 0.15]), np.array([-0.125, -0.12]), 3.0 + 2.0 * severity, TUBE)


DEVICES: dict[str, Paint] = {
    "Pacemaker": _pacemaker,
    "Central venous catheter": _central_line,
    "Nasogastric tube": _feeding_tube,
    "Endotracheal tube": _breathing_tube,
    "Sternotomy": _wires,
    "Chest drain": _drain,
    "Tracheostomy tube": _cannula,
}
