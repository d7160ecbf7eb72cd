"""One patient of the phantom: the numbers that anatomy is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raymedlt.images.phantom_shape import LungOutline, mask_names, outline

LUNG_DENSITY = 0.25  # of aerated lung; water is 1


@dataclass(slots=True, kw_only=True)
class Body:
    """One patient. Findings that change shapes change these numbers before anything is drawn."""

    outline: LungOutline
    female: bool
    thickness: float  # cm, front to back at the middle
    heart_ratio: float  # heart's width over the thorax's
    heart_left: float  # share of the heart that lies left of the midline
    heart_tilt: float
    knob: float  # radius of the aortic knob
    aorta_bulge: float = 0.0  # of the descending aorta, to the left
    ascending: float = 0.0  # bulge of the ascending aorta, to the right
    hila: NDArray[np.float64] = field(default_factory=lambda: np.ones(2))  # size of each hilum
    upper_width: float = 0.0  # extra half width of the upper mediastinum
    trachea: float = 0.0  # where it is pushed to
    spine_bow: float = 0.0  # scoliosis: largest deviation of the spine
    spine_phase: float = 0.0
    raised: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # of each diaphragm, in lung heights
    flat: float = 0.0  # 0 domes, 1 flat
    shift: float = 0.0  # of heart and mediastinum, to the patient's left
    density: float = LUNG_DENSITY
    vessels: float = 1.0
    width: float  # half of the trunk's
    rib_spacing: float
    rib_fall: float  # how far a posterior rib falls to its side
    rib_return: float  # how far its anterior part falls to the middle
    rib_strength: float
    breast: float
    gas: float  # size of the stomach's air bubble

    def middle(self, y: float) -> float:
        """X of the spine at the level y."""
        return float(self.spine(np.array([y]))[0])

    def spine(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """X of the spine at the levels y: a parabola with both ends near the midline."""
        t = np.clip((y - self.spine_phase + 0.5), -0.3, 1.3)
        return self.spine_bow * (4 * t * (1 - t) - 0.35)


def healthy(rng: np.random.Generator) -> Body:
    """A patient without findings. Number and order of the draws are fixed."""
    count = len(mask_names())
    first, second = (int(value) for value in rng.integers(0, max(count, 1), 2))
    share, u = float(rng.random()), rng.random(8)
    n = rng.standard_normal(16)
    shape = outline(first).blend(outline(second), 0.5 * share)
    return Body(
        outline=shape,
        female=bool(u[0] < 0.48),
        thickness=float(np.clip(21.0 + 2.2 * n[0], 16.5, 28.0)),
        heart_ratio=float(np.clip(0.435 + 0.032 * n[1], 0.35, 0.495)),
        heart_left=float(np.clip(0.70 + 0.03 * n[2], 0.62, 0.77)),
        heart_tilt=float(np.clip(0.62 + 0.12 * n[3], 0.35, 0.9)),
        knob=float(np.clip(0.125 + 0.014 * n[4], 0.09, 0.155)),
        aorta_bulge=float(abs(0.012 * n[5])),
        spine_bow=float(0.008 * n[6]),
        spine_phase=float(0.5 + 0.15 * (u[1] - 0.5)),
        raised=np.array([0.012 * n[7] + 0.02, 0.012 * n[8] - 0.005]),
        flat=float(np.clip(0.12 * u[2], 0, 1)),
        hila=np.clip(1.0 + 0.08 * n[9:11], 0.8, 1.2),
        density=float(np.clip(LUNG_DENSITY + 0.02 * n[11], 0.19, 0.31)),
        vessels=float(np.clip(1.0 + 0.15 * n[12], 0.65, 1.4)),
        rib_spacing=float(np.clip(0.104 + 0.006 * n[13], 0.09, 0.12)),
        rib_fall=float(np.clip(0.26 + 0.045 * n[14], 0.14, 0.38)),
        rib_return=float(np.clip(0.26 + 0.05 * n[15], 0.14, 0.38)),
        rib_strength=float(0.75 + 0.5 * u[3]),
        breast=float(0.5 + u[4]),
        gas=float(u[5]),
        width=float(1.17 + 0.015 * n[0] + 0.22 * u[6] * u[6]),
    )
