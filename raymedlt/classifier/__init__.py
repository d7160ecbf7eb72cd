"""Long-tailed multi-label classification of chest X-rays (TRCGL-Net). `load(folder).predict(images)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymedlt.classifier.predictor import Classifier, Predictions, load

__all__ = ["Classifier", "Predictions", "load"]


def __getattr__(name: str) -> Any:  # torch is imported when one of these is used, not before
    if name in __all__:
        from raymedlt.classifier import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'raymedlt.classifier' has no attribute {name!r}")
