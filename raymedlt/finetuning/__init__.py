"""Vision-language models that write the report of a chest X-ray: `load(folder).generate(images)`.

config.py         what can be set
texts.py          what the model is taught to write
studies.py        reports joined with their images; controls.py: changed training texts; report_runs.py: where they are
                  from; arranging.py: all of it, once per run
lengths.py        steps of texts of similar length; feed.py, batches.py: the micro-batches of a step
vision.py         images to maps of features: timm networks; seeing.py: how one learns to see before it speaks
connector.py      maps to image tokens: linear, or learnable queries
language.py       the language model and its words: small, SmolLM2, given
model.py          the composed model
processing.py     images and texts as tensors, which tokens count; hubprocessing.py: for Hugging Face's models
lora.py           LoRA on the language part
build.py          a model from the configuration, or its shapes alone; making.py: as each process of a run makes it
training.py       the loop; engines.py: one process, data-parallel; zero.py: DeepSpeed; state.py: checkpoints for any
                  number of replicas; task.py: a training as a replica does it; distributed.py: under Ray Train
export.py         the finished model as a folder; predictor.py: its use
generation.py     reports by a finished model, as a function and as shards
running.py        the job; describing.py: what it would do; finish.py: its end
report.py         what page.py and card.py show (with examples.py, figures.py, page_making.py, score_words.py,
                  warnings.py)
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
