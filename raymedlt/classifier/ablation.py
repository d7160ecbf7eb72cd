"""Which part of the method helps: the trainings that `--ablate` adds, each with one part switched off.

And what synthetic images are worth: those that `--synthetic.compare` adds, with them in another way or without them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from raymedlt.classifier.config import ClassifyConfig

FULL, PLAIN = "full", "plain-bce"
REAL_ONLY, AGAIN = "real-images-only", "real-images-again"


def variants(config: ClassifyConfig) -> dict[str, ClassifyConfig]:
    """Name -> configuration: everything on, each part off in turn (where it can act), and all of them off with BCE."""
    model, loss, synthetic = config.model, config.loss, config.synthetic
    plain_model = replace(model, gate=False, attention="off", graph="off")
    found = {FULL: config}
    if model.gate and (model.gate_strength or model.learnable_strengths):
        found["no-gate"] = replace(config, model=replace(model, gate=False))
    if model.attention != "off" and (model.attention_strength or model.learnable_strengths):
        found["no-attention"] = replace(config, model=replace(model, attention="off"))
    if model.graph != "off" and (model.graph_strength or model.learnable_strengths):
        found["no-graph"] = replace(config, model=replace(model, graph="off"))
    if loss.name != "bce":
        found["bce-loss"] = replace(config, loss=replace(loss, name="bce"))
    if loss.sampling != "uniform":
        found["uniform-sampling"] = replace(config, loss=replace(loss, sampling="uniform"))
    if synthetic.path is not None:
        found["no-synthetic"] = replace(config, synthetic=replace(synthetic, path=None))
    found[PLAIN] = replace(
        config,
        model=plain_model,
        loss=replace(loss, name="bce", sampling="uniform"),
        synthetic=replace(synthetic, path=None),
    )
    return found


def other_uses(config: ClassifyConfig) -> dict[str, ClassifyConfig]:
    """Name -> configuration: the other way to use synthetic images, copies of real ones in their place, none."""
    own = config.synthetic
    if own.path is None or not own.compare:
        return {}
    uses: dict[str, Literal["mix", "pretrain", "oversample"]] = {
        "mix": "mix", "pretrain": "pretrain", AGAIN: "oversample"
    }  # fmt: skip
    found = {name: replace(config, synthetic=replace(own, use=use)) for name, use in uses.items() if use != own.use}
    return found | {REAL_ONLY: replace(config, synthetic=replace(own, path=None))}
