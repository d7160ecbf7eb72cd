"""Chest X-rays drawn by code from findings with side and severity: the public face of the phantom.

`draw` makes one image. Nothing but the seed, the image id and the findings decides about it; the part of the id before
the first "_" is the patient, whose anatomy and lesions stay where they were: "p12_0" and "p12_1" are two exposures of
one chest. A phantom has what no public data set has: the truth about every finding. It is no substitute for X-rays.

Left and right are the patient's; as on every chest X-ray, the patient's right is at the image's left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raymedlt.errors import InputError
from raymedlt.images import phantom_anatomy as anatomy
from raymedlt.images.phantom_body import Body, healthy
from raymedlt.images.phantom_canvas import Board
from raymedlt.images.phantom_cohort import PHANTOM_LABELS, PhantomCohort, cohort, findings_of
from raymedlt.images.phantom_devices import DEVICES
from raymedlt.images.phantom_findings import BONES_AND_MORE, RESHAPE, Paint, Scene
from raymedlt.images.phantom_labels import BEDRIDDEN, FINDINGS, Finding, label_sets
from raymedlt.images.phantom_lung_findings import LUNG_AND_PLEURA
from raymedlt.images.phantom_nuisance import develop, exposure, loose_wires, view_of
from raymedlt.images.phantom_text import PhantomText, text
from raymedlt.seeds import generator

__all__ = [
    "FINDINGS",
    "PHANTOM_LABELS",
    "Finding",
    "PhantomCohort",
    "PhantomText",
    "cohort",
    "draw",
    "findings_of",
    "label_sets",
    "text",
]

_PAINT: dict[str, Paint] = {**BONES_AND_MORE, **LUNG_AND_PLEURA, **DEVICES}
_SIDES = {"left": (1,), "right": (-1,), "both": (-1, 1), "": (0,)}


def draw(findings: Sequence[Finding], *, seed: int, image_id: str, size: int = 64) -> NDArray[np.uint8]:
    """One chest X-ray.

    Drawn at twice the size and averaged down; the same image at every size, but for the noise.

    Args:
        findings: what it shows; order does not matter. A finding that has sides and is given none is on both.
        seed: of the run.
        image_id: decides, with the seed, everything else. The part before the first "_" names the patient.
        size: pixels per side, 32 to 1024.

    Returns:
        Grey levels [size, size], uint8; dense is bright.

    Raises:
        InputError: a size out of range.
    """
    if not 32 <= size <= 1024:
        raise InputError(f"a phantom of {size} pixels", "32 to 1024", "change images.size")
    patient = image_id.partition("_")[0]
    inborn = generator(seed, "phantom", patient, "anatomy")
    body = healthy(inborn)
    ordered = sorted(findings, key=lambda finding: finding.name)
    _reshape(body, ordered, seed, patient)
    view = view_of(seed, image_id, any(finding.name in BEDRIDDEN for finding in findings))
    rng = generator(seed, "phantom", image_id, "nuisance")
    nuisance = exposure(rng, view, body.outline.aspect)
    if nuisance.ap:
        body.heart_ratio *= 1.10
        body.raised = body.raised + 0.03
    board = Board(nuisance.pose, 2 * size)
    anatomy.vessels(body, board, inborn)
    vessel = board.take_strokes()
    anatomy.airways(body, board)
    soft = anatomy.soft_tissue(body, board)
    filled = anatomy.heart(body, board)
    extra = anatomy.bones(body, board) + np.float32(2.0) * filled
    anatomy.hila(body, board, extra)
    anatomy.gas(body, board, extra)
    parts = anatomy.lungs(body, board)
    scene = Scene(board, body, parts, extra)
    for finding in ordered:
        if finding.name in _PAINT:
            for side in _sides(finding):
                keyed = generator(seed, "phantom", patient, finding.name, side)
                _PAINT[finding.name](scene, side, finding.severity, keyed)
    loose_wires(board, rng, nuisance.leads)
    extra += board.take_strokes()
    total = anatomy.compose(body, board, soft, filled, parts, vessel, extra, inborn)
    return develop(total, nuisance, rng, size)


def _reshape(body: Body, findings: Sequence[Finding], seed: int, patient: str) -> None:
    for finding in findings:
        if finding.name in RESHAPE:
            for side in _sides(finding):
                keyed = generator(seed, "phantom", patient, finding.name, side, "shape")
                RESHAPE[finding.name](body, side, finding.severity, keyed)


def _sides(finding: Finding) -> tuple[int, ...]:
    if finding.side == "" and "both" in FINDINGS[finding.name].sides:
        return _SIDES["both"]
    return _SIDES[finding.side]
