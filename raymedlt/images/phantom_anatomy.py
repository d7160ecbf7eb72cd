"""The phantom's healthy anatomy: what a patient looks like, and its thickness in cm of water along every ray.

A chest X-ray shows -log of what passed: the sum of thickness times attenuation. Soft tissue counts as water, aerated
lung as a quarter of it, bone and metal as the water that would absorb as much.
"""

from __future__ import annotations

import numpy as np

from raymedlt.images.phantom_body import Body
from raymedlt.images.phantom_canvas import FINE, THICK, TUBE, Board, Field, Lung, Table, bump, cloud, dome, ramp, rise
from raymedlt.images.phantom_shape import LEVELS_A, LEVELS_Y

F = np.float32
_LUNG_DEPTH = 15.0  # cm of lung along a ray, at most
_GENERATIONS = 5
_STEMS = 8  # of the vessels at each hilum


def lungs(body: Body, board: Board) -> list[Lung]:
    """Both lungs, patient's right first, each in its half of the board."""
    shape, found = body.outline, []
    for i, side in enumerate((-1, 1)):
        lift = body.raised[i]
        curve = shape.diaphragm[i]
        corner = float(shape.corner[i])
        flat_level = corner - 0.055
        curve = curve + (flat_level - curve) * body.flat * (LEVELS_A < 0.98)
        reach = np.clip((1.0 - LEVELS_A) / 0.35, 0, 1)  # the dome rises, the costophrenic angle stays
        round_ = 0.035 * (1 - body.flat) * np.clip(1 - ((LEVELS_A - 0.45) / 0.5) ** 2, 0, 1)
        curve = np.minimum(curve - lift * reach - round_, 1.02)
        lateral = Table.of(LEVELS_Y, shape.lateral[i], 0.0, 1.0)
        medial_curve = shape.medial[i] + body.upper_width * np.clip((0.42 - LEVELS_Y) / 0.12, 0, 1)
        medial_curve = medial_curve + side * (body.shift * 0.5 + body.spine(LEVELS_Y) * 0.6)
        medial = Table.of(LEVELS_Y, np.maximum(medial_curve, 0.05), 0.0, 1.0)
        diaphragm = Table.of(LEVELS_A, curve, 0.0, 1.05)
        where = _half(board, side)
        a, y = board.x_SS[where] * F(side), board.y_SS[where]
        from_wall, from_middle = lateral(y) - a, a - medial(y)
        above = diaphragm(a) - y
        top = (y - F(shape.apex[i])) * F(board.aspect)
        depth = rise(from_wall * F(1 / 0.34)) * rise(from_middle * F(1 / 0.13))
        depth *= rise(top * F(1 / 0.30))
        # The lung reaches lower behind the dome than its edge shows.
        behind = np.clip(F(1) + above * F(1 / 0.11), 0, 1) * F(0.22)
        edge = F(1 / max(0.007, board.pixel_y))
        depth *= behind + (F(1) - behind) * ramp(above * edge)
        found.append(
            Lung(
                side=side,
                where=where,
                a=a,
                y=y,
                from_wall=from_wall,
                from_middle=from_middle,
                depth=depth,
                apex=float(shape.apex[i]),
                corner=corner,
                lateral=lateral,
                diaphragm=diaphragm,
                density=np.full(a.shape, body.density, np.float32),
                markings=np.full(a.shape, body.vessels, np.float32),
            )
        )
    return found


def _half(board: Board, side: int) -> tuple[slice, slice]:
    middle, reach = board.pose.centre_u * board.size, 0.12 * board.size
    rows = slice(0, board.size)
    if side < 0:
        return rows, slice(0, min(board.size, int(middle + reach)))
    return rows, slice(max(0, int(middle - reach)), board.size)


def soft_tissue(body: Body, board: Board) -> Field:
    """Torso, shoulders, neck, breasts, liver and stomach [S, S], cm of water, as if there were no lungs."""
    x, y = board.x_SS, board.y_SS
    a = np.abs(x)
    wide = F(body.width)
    waist = wide + F(0.10) * np.clip(y - F(0.4), 0, 1)
    q = (a / waist) ** 2
    trunk = F(body.thickness) * np.sqrt(np.maximum(F(1) - q * (F(0.3) + F(0.7) * q), 0))
    trunk *= F(0.80) + F(0.22) * np.clip(y, 0, 1.1)
    # Shoulders: a slope from the neck outwards; above it is air.
    rows = slice(0, int(0.62 * board.size))
    ya, aa = y[rows], a[rows]
    slope = F(-0.16) + F(0.20) * np.clip((aa - F(0.30)) / F(1.0), 0, 1.2) ** 2
    skin = rise((ya - slope) * F(1 / 0.16))
    neck = F(13.0) * np.sqrt(np.maximum(F(1) - (aa / F(0.46)) ** 2, 0))
    shoulder = F(10.5) * bump(np.square((aa - F(1.12)) / F(0.62)))
    shoulder = shoulder * ramp((F(0.30) - ya) * F(1 / 0.30))
    trunk[rows] = np.maximum(trunk[rows] * skin, neck)
    trunk[rows] += shoulder * skin * (F(1) - F(0.5) * bump(np.square(aa / F(0.9))))
    trunk = np.asarray(trunk, np.float32)
    _breasts(body, board, trunk)
    return trunk


def _breasts(body: Body, board: Board, water: Field) -> None:
    strength = (1.1 + 1.3 * body.breast) if body.female else 0.5
    radius = 0.36 + 0.09 * body.breast
    for side in (-1.0, 1.0):
        x, y = side * 0.53, 0.60 + 0.06 * body.breast
        where = board.window(x, y, radius * 1.55)
        dx, dy = board.offsets(where, x, y)
        below = dy > 0
        r2 = np.square(dx / F(radius)) + np.square(dy / np.where(below, F(radius), F(radius * 1.5)))
        water[where] += F(strength) * dome(r2.astype(np.float32))


def heart(body: Body, board: Board) -> Field:
    """Heart and great vessels [S, S]: 0 where there is lung alone, 1 where they fill the ray.

    Two borders as curves of Y, from the neck to the diaphragm: on the left aortic knob, pulmonary trunk and ventricle,
    on the right cava, ascending aorta and atrium.
    """
    base = float(body.outline.diaphragm[1][6]) - float(body.raised[1]) * 0.6
    left, right = 2.0 * body.heart_ratio * body.heart_left, 2.0 * body.heart_ratio * (1 - body.heart_left)
    top, wide = 0.46, body.upper_width
    bulge, rise_out = body.aorta_bulge, body.ascending
    fall = (base - top) * np.array([0.22, 0.45, 0.66, 0.84, 1.0, 1.25])
    round_ = body.heart_tilt
    out = 0.22 + (left - 0.22) * np.array([0.30 + 0.16 * round_, 0.66 + 0.10 * round_, 0.90, 1.0, 0.985, 0.85])
    levels = np.array([-0.3, 0.0, 0.10, 0.165, 0.230, 0.290, 0.34, 0.39, top])
    knob = 0.07 + 1.25 * body.knob
    edge = np.array([0.17, 0.15, 0.135, 0.14, knob, 0.150, 0.160, 0.190, 0.215])
    edge = edge + wide * np.array([0.8, 1, 1, 0.9, 0.5, 0.4, 0.2, 0.1, 0])
    edge = edge + bulge * np.array([0, 0, 0, 0, 0.2, 0.9, 1.0, 0.9, 0.7])
    left_border = Table.of(np.concatenate([levels, top + fall]), np.concatenate([edge, out]), -0.3, 1.2, smooth=13)
    out = 0.155 + (right - 0.155) * np.array([0.42, 0.86, 1.0, 0.93, 0.78, 0.6])
    edge = np.array([0.16, 0.135, 0.125, 0.125, 0.13, 0.135, 0.14, 0.145, 0.155])
    edge = edge + wide * np.array([0.8, 1, 1, 0.9, 0.7, 0.4, 0.2, 0.1, 0])
    edge = edge + rise_out * np.array([0, 0, 0.2, 0.6, 1.0, 1.0, 0.9, 0.6, 0.2])
    right_border = Table.of(np.concatenate([levels, top + fall]), np.concatenate([edge, out]), -0.3, 1.2, smooth=13)
    reach = (0.25 + 2.0 * body.heart_ratio, 0.20 + body.heart_ratio)
    centre, half = board.pose.centre_u, board.pose.half_width
    first, last = int((centre - reach[1] * half) * board.size), int((centre + reach[0] * half) * board.size)
    where = (slice(0, board.size), slice(max(0, first), min(board.size, last)))
    y = board.y_SS[where]
    x = board.x_SS[where] - F(body.shift) * np.clip(y * F(1.6), 0, 1)
    filled = np.zeros((board.size, board.size), np.float32)
    filled[where] = rise(np.minimum((left_border(y) - x) * F(1 / 0.16), (right_border(y) + x) * F(1 / 0.14)))
    down = np.linspace(0.26, 0.82, 12)
    bow = bulge * 4 * (down - 0.2) * (0.95 - down) / 0.5625
    board.stroke(0.10 + body.shift * 0.7 + bow * 1.3 + body.spine(down) * 0.6, down, 1.6, THICK)
    return filled * ramp((F(base + 0.05) - board.y_SS) * F(12))


def bones(body: Body, board: Board) -> Field:
    """Ribs, clavicles, shoulder blades and spine [S, S], cm of water."""
    bone = np.zeros((board.size, board.size), np.float32)
    for i, side in enumerate((-1, 1)):
        where = _half(board, side)
        a, y = board.x_SS[where] * F(side), board.y_SS[where]
        bone[where] += _ribs(body, Table.of(LEVELS_Y, body.outline.lateral[i], 0.0, 1.0), a, y, side)
        top = slice(0, int(0.45 * board.size))
        bone[top, where[1]] += _clavicle(a[top], y[top])
    _shoulders(board, bone)
    _vertebrae(body, board, bone)
    return bone


def _ribs(body: Body, lateral: Table, a: Field, y: Field, side: int) -> Field:
    """All ribs of a side at once: each is the same pair of arcs, one spacing lower than the last."""
    edge = lateral(y + F(0.05)) + F(0.055)
    t = a / np.maximum(edge, F(0.35))
    arc = np.sqrt(np.maximum(F(1) - t * t, 0))
    inside = ramp((F(1) - t) * F(14)) * ramp((a - F(0.10)) * F(25))
    steep = np.clip(y, 0, 1) * F(0.35) + F(0.8)
    back = y + F(0.015) - F(body.rib_fall) * steep * (F(1) - arc)
    back += F(side * body.spine_bow * 0.35) * a
    front = y + F(0.015) - F(body.rib_fall) * steep - F(body.rib_return) * arc
    spacing = F(body.rib_spacing)
    seen = ramp((y + F(0.03)) * F(18)) * ramp((F(1.06) - y) * F(8))
    grazing = F(1) + F(0.55) * np.clip((t - F(0.72)) * F(3.6), 0, 1) ** 2
    rear = _band(back / spacing, 0.21) * F(1.8)
    near = _band(front / spacing, 0.25) * F(1.05) * ramp((a - F(0.34)) * F(7))
    return np.asarray((rear + near) * grazing * inside * seen * F(body.rib_strength), np.float32)


def _band(phase: Field, half: float) -> Field:
    """A tube once per unit of phase: thicker walls at its edges (cortex) than in its middle."""
    distance = np.abs(phase - np.floor(phase) - F(0.5)) * F(1 / half)
    wall = np.maximum(F(1) - distance * distance, 0)
    return np.asarray(np.sqrt(wall) * (F(0.62) + F(0.38) * np.minimum(distance, 1)), np.float32)


def _clavicle(a: Field, y: Field) -> Field:
    z = np.clip((a - F(0.10)) / F(1.0), 0, 1.1)
    level = F(0.115) - F(0.22) * z + F(0.10) * z * z
    distance = (y - level) / (F(0.030) + F(0.018) * bump(((z - F(0.02)) / F(0.3)) ** 2))
    ends = ramp((a - F(0.10)) * F(30)) * ramp((F(1.10) - a) * F(20))
    wall = np.maximum(F(1) - distance * distance, 0)
    return np.asarray(np.sqrt(wall) * (F(1.9) + F(0.9) * np.minimum(np.abs(distance), 1)) * ends, np.float32)


def _shoulders(board: Board, bone: Field) -> None:
    for side in (-1.0, 1.0):
        for x, y, wide, high, thick in ((1.30, 0.10, 0.17, 0.19, 3.2), (1.40, 0.32, 0.11, 0.42, 2.2)):
            where = board.window(side * x, y, high)
            dx, dy = board.offsets(where, side * x, y)
            bone[where] += F(thick) * dome((dx / F(wide)) ** 2 + (dy / F(high)) ** 2)
        level = np.linspace(0.06, 0.50, 8)
        edge = 1.02 - 0.35 * (level - 0.06) * (0.75 - level)
        board.stroke(side * edge, level, 0.8, TUBE)  # medial border of the shoulder blade
        where = board.window(side * 1.22, 0.28, 0.42)
        dx, dy = board.offsets(where, side * 1.22, 0.28)
        bone[where] += F(0.9) * ramp((F(1) - (dx / F(0.21)) ** 2 - (dy / F(0.40)) ** 2) * F(4))


def _vertebrae(body: Body, board: Board, bone: Field) -> None:
    table = Table.of(LEVELS_Y * 1.6 - 0.3, body.spine(LEVELS_Y * 1.6 - 0.3), -0.3, 1.3)
    column = board.to_pixels(np.array([-0.20 - abs(body.spine_bow), 0.20 + abs(body.spine_bow)]), np.array([0.5, 0.5]))[
        0
    ]
    tilt = abs(board.pose.sine) * board.size * 0.6
    where = (slice(0, board.size), slice(max(0, int(column[0] - tilt)), min(board.size, int(column[1] + tilt) + 1)))
    x, y = board.x_SS[where], board.y_SS[where]
    dx = x - table(y)
    spacing = F(0.078) + F(0.016) * np.clip(y, 0, 1)
    phase = y / spacing
    part = np.abs(phase - np.floor(phase) - F(0.5)) * F(2)  # 0 middle of a body, 1 in the disc
    width = F(0.105) + F(0.02) * np.clip(y, 0, 1) + F(0.010) * part
    body_part = rise((width - np.abs(dx)) * F(1 / 0.05)) * ramp((F(0.86) - part) * F(6))
    plate = bump(((part - F(0.76)) * F(5)) ** 2) * ramp((width - np.abs(dx)) * F(40))
    spinous = bump((dx / F(0.032)) ** 2 + ((part - F(0.75)) / F(0.6)) ** 2)
    pedicle = bump(((np.abs(dx) - F(0.072)) / F(0.026)) ** 2 + ((part - F(0.2)) / F(0.5)) ** 2)
    bone[where] += F(1.5) * body_part + F(0.35) * plate + F(0.6) * spinous + F(0.6) * pedicle


def airways(body: Body, board: Board) -> None:
    """Trachea and main bronchi as strokes of air, which take thickness away."""
    level = np.linspace(-0.30, 0.315, 10)
    pushed = body.trachea * np.clip(1 - ((level - 0.05) / 0.3) ** 2, 0, 1) ** 2
    x = 0.012 + body.shift * 0.6 * np.clip(level / 0.3, 0, 1) + pushed + 0.7 * body.spine(level)
    board.stroke(x, level, -2.6, THICK)
    end = float(x[-1])
    board.stroke(np.array([end, end - 0.11, end - 0.24]), np.array([0.30, 0.355, 0.40]), -0.9, TUBE)
    board.stroke(np.array([end, end + 0.13, end + 0.30]), np.array([0.30, 0.365, 0.42]), -0.8, TUBE)


def gas(body: Body, board: Board, water: Field) -> None:
    """Air in the stomach below the left diaphragm, and a brighter liver on the right."""
    level = float(body.outline.diaphragm[1][8]) - float(body.raised[1])
    if body.gas > 0.35:
        wide = 0.14 + 0.16 * (body.gas - 0.35)
        y = level + 0.085
        where = board.window(0.42, y, wide * 1.1)
        dx, dy = board.offsets(where, 0.42, y)
        flat = ramp((F(wide * 0.40) - dy) * F(40))
        water[where] -= F(4.5) * dome((dx / F(wide)) ** 2 + (dy / F(wide * 0.62)) ** 2) * flat
    where = board.window(-0.45, 1.08, 0.7)
    dx, dy = board.offsets(where, -0.45, 1.08)
    water[where] += F(1.2) * bump((dx * dx + dy * dy) * F(1 / 0.49))


def vessels(body: Body, board: Board, rng: np.random.Generator) -> None:
    """Both lungs' branching arteries and veins as strokes: thick at the hilum, fading to the periphery.

    Each generation's branches fork in two; those of both lungs are made at once.
    """
    side = np.repeat([-1.0, 1.0], _STEMS)
    size = np.repeat(body.hila, _STEMS)
    angle = np.tile(np.linspace(-1.40, 1.55, _STEMS), 2) + rng.normal(0.0, 0.12, 2 * _STEMS)
    reach = 0.25 + 0.05 * rng.random(2 * _STEMS) + 0.10 * np.sin(angle) ** 2
    width = 0.050 * size * (0.8 + 0.4 * rng.random(2 * _STEMS))
    x = side * (0.20 + 0.03 * size) + body.shift * 0.6
    y = np.repeat([0.425, 0.395], _STEMS) + 0.05 * np.sin(angle)
    for generation in range(_GENERATIONS):
        count = len(x)
        t = (np.arange(14 if generation < 2 else 11) / (13 if generation < 2 else 10))[None, :]
        direction = angle[:, None] + rng.normal(0.0, 0.18, count)[:, None] * t
        step = reach[:, None] / t.shape[1]
        xs = x[:, None] + side[:, None] * np.cumsum(np.cos(direction), axis=1) * step
        ys = y[:, None] + np.cumsum(np.sin(direction), axis=1) * (step / board.aspect)
        thickness = width[:, None] * (1.0 - 0.25 * t) * (52.0 if generation < 2 else 78.0)
        board.dots(xs.ravel(), ys.ravel(), (thickness * step).ravel(), TUBE if generation < 2 else FINE)
        fork, second = 0.30 + 0.22 * rng.random(count), 0.5 + 0.8 * rng.random(count)
        angle = np.concatenate([direction[:, -1] - fork, direction[:, -1] + fork * second])
        x, y, side = (np.concatenate([part, part]) for part in (xs[:, -1], ys[:, -1], side))
        width = np.concatenate([width, width]) * (0.62 + 0.14 * rng.random(2 * count))
        reach = np.concatenate([reach, reach]) * (0.70 + 0.16 * rng.random(2 * count))


def hila(body: Body, board: Board, water: Field) -> None:
    """The pulmonary arteries' roots: soft shadows beside the heart."""
    for i, side in enumerate((-1, 1)):
        size = float(body.hila[i])
        x, y = side * (0.185 + 0.035 * size) + body.shift * 0.6, (0.43 if side < 0 else 0.40)
        where = board.window(x, y, 0.24 * size)
        dx, dy = board.offsets(where, x, y)
        lean = dx - F(side * 0.25) * dy
        r2 = (lean / F(0.085 * size)) ** 2 + (dy / F(0.20 * size)) ** 2
        water[where] += F(3.0 * min(size, 2.0)) * bump(r2)


def compose(
    body: Body,
    board: Board,
    soft: Field,
    filled: Field,
    parts: list[Lung],
    vessel: Field,
    extra: Field,
    rng: np.random.Generator,
) -> Field:
    """Everything along the ray [S, S], cm of water: soft tissue and bone, less the air of the lungs."""
    total = soft + extra
    texture = cloud(rng, 17, board.size) * F(0.018) + cloud(rng, 41, board.size) * F(0.014)
    reach = F(_LUNG_DEPTH * body.thickness / 21.0)
    for lung in parts:
        free = F(1) - F(0.97) * np.minimum(filled[lung.where] * F(1.15), 1)
        tissue = np.clip(lung.density + texture[lung.where], 0, 1)
        total[lung.where] -= reach * lung.depth * free * (F(1) - tissue)
        aerated = np.clip((F(1) - lung.density) * F(1.5), 0, 1)
        total[lung.where] += vessel[lung.where] * lung.markings * (aerated * free) * np.minimum(lung.depth * F(1.4), 1)
    return total
