"""Vision-language models that write the report of a chest X-ray: fine-tuning, generation, export.
`load(folder).generate(images)`.

config.py        what can be set
generation.py    reports by a finished model, as a function and as shards
predictor.py     a finished model
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymedlt.finetuning.predictor import ReportWriter, load

__all__ = ["ReportWriter", "load"]


def __getattr__(name: str) -> Any:  # torch is imported when one of these is used, not before
    if name in __all__:
        from raymedlt.finetuning import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'raymedlt.finetuning' has no attribute {name!r}")
