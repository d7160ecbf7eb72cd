"""Long-tailed multi-label classification of chest X-rays (TRCGL-Net). `load(folder).predict(images)`.

config.py        the job's configuration
backbone.py, modules.py, label_graph.py, model.py    the network
losses.py, feed.py    what a step sees and minimises
training.py      the loop; task.py: one training from folder to network
scoring.py, calibration.py, metrics.py, bootstrap.py, evaluation.py    from network to figures with intervals
ablation.py      the variants of --ablate
running.py       the job, stage by stage; distributed.py: all that knows Ray; finish.py: tables, model, page, card
outcome.py, report.py, page.py (with figures.py, confusion.py, attentionmaps.py, graphfigure.py), card.py
predictor.py     a finished classifier

Source: TRCGL-Net (arXiv 2607.00975) and its authors' release; where raymedlt differs, the module says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymedlt.classifier.config import ClassifyConfig
    from raymedlt.classifier.predictor import Classifier, Predictions, load
    from raymedlt.classifier.running import run as train_classifier

__all__ = ["Classifier", "ClassifyConfig", "Predictions", "load", "train_classifier"]


def __getattr__(name: str) -> Any:  # torch is imported when one of these is used, not before
    if name == "ClassifyConfig":
        from raymedlt.classifier.config import ClassifyConfig

        return ClassifyConfig
    if name == "train_classifier":
        from raymedlt.classifier.running import run

        return run
    if name in __all__:
        from raymedlt.classifier import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'raymedlt.classifier' has no attribute {name!r}")
