"""Configuration of `jobs/pipeline.py`: a section for each job, and what they share (see raymedlt/config.py).

The defaults are a demonstration for two CPU cores: real OpenI reports, 5,000 phantoms, small networks, few steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from raymedlt.alignment.config import AlignConfig, PolicyConfig
from raymedlt.classifier.config import ClassifyConfig
from raymedlt.config import EnrichConfig, ReportsConfig, refuse_credentials, require
from raymedlt.evaluation.config import EvaluateConfig
from raymedlt.finetuning.config import FinetuneConfig, TextConfig
from raymedlt.images.config import ImageLabelsConfig, ImagesConfig, PhantomConfig, SplitConfig
from raymedlt.synthesis.config import GeneratorConfig, SynthesizeConfig
from raymedlt.synthesis.plan import PlanSettings
from raymedlt.synthesis.settings import AutoencoderSettings, LearningSettings

Stage = Literal["enrich", "synthesize", "classify", "finetune", "align", "evaluate"]
STAGES: tuple[Stage, ...] = ("enrich", "synthesize", "classify", "finetune", "align", "evaluate")


def demo_synthesize() -> SynthesizeConfig:
    """A small generator that learns for minutes, and at most 60 rows for each rarer class."""
    return SynthesizeConfig(
        generator=GeneratorConfig(autoencoder=AutoencoderSettings(steps=800, decoder_steps=400)),
        learning=LearningSettings(steps=1200, ema=0.995),
        plan=PlanSettings(groups="tail_medium", cap=60, overdraw=2.0),
    )


def demo_finetune() -> FinetuneConfig:
    """5,000 phantoms whose enriched reports are taught."""
    return FinetuneConfig(
        phantom=PhantomConfig(images=5_000, test_images=400, test_positives=0), text=TextConfig(use="enriched")
    )


def demo_align() -> AlignConfig:
    """A minute or two of rewards."""
    return AlignConfig(training=PolicyConfig(steps=50, checkpoint_steps=10))


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The whole way: enrich reports, draw rare images, classify, fine-tune, align, evaluate; one page leads to all."""

    reports: ReportsConfig = field(default_factory=ReportsConfig)
    """The reports. With images.path they must be the reports of these images."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """The images of all jobs. Default: the phantom's."""
    phantom: PhantomConfig = field(default_factory=lambda: PhantomConfig(images=5_000, test_images=1_000, classes=12))
    """The phantom of synthesize and classify, where no images are given; finetune has its own."""
    labels: ImageLabelsConfig = field(default_factory=ImageLabelsConfig)
    """The label table of the images."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Training, validation and test patients of synthesize and classify."""
    enrich: EnrichConfig = field(default_factory=EnrichConfig)
    """As jobs/enrich.py takes it."""
    synthesize: SynthesizeConfig = field(default_factory=demo_synthesize)
    """As jobs/synthesize.py takes it."""
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    """As jobs/classify.py takes it; trained with the images of synthesize and without."""
    finetune: FinetuneConfig = field(default_factory=demo_finetune)
    """As jobs/finetune.py takes it. With images.path the reports are those of enrich."""
    align: AlignConfig = field(default_factory=demo_align)
    """As jobs/align.py takes it."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """As jobs/evaluate.py takes it; used for all its comparisons."""
    stages: list[Stage] = field(default_factory=lambda: list(STAGES))
    """Which stages to do. Others stay as they are, and on the page if they are finished."""
    seed: int = 0
    """Seed of all jobs."""
    output: str = "runs/pipeline"
    """Folder or URI (s3://, gs://, abfs://) that receives a folder for each job, and the page. The same command again
    resumes."""
    workers: int | None = None
    """Processes or threads that work side by side in a job. Default: one per CPU."""
    describe: bool = False
    """Print what would be done and run nothing."""
    restart: bool = False
    """Begin the jobs of `stages` anew; other stages stay as they are."""

    def __post_init__(self) -> None:
        refuse_credentials("output", self.output)
        require(bool(self.stages), "stages", self.stages, f"some of {', '.join(STAGES)}")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        require(
            self.images.path is None or self.reports.path is not None,
            "reports.path", self.reports.path, "the reports of the images (images.path is given)",
        )  # fmt: skip
        require(
            (self.images.path is None) == (self.labels.path is None),
            "labels.path", self.labels.path, "images.path and labels.path together, or neither",
        )  # fmt: skip
        given = self.classify.synthetic.path
        require(given is None, "classify.synthetic.path", given, "nothing: the pipeline sets it")
        for stage, section, usual in (
            ("enrich", self.enrich, EnrichConfig()),
            ("synthesize", self.synthesize, demo_synthesize()),
            ("classify", self.classify, ClassifyConfig()),
            ("finetune", self.finetune, demo_finetune()),
            ("align", self.align, demo_align()),
            ("evaluate", self.evaluate, EvaluateConfig()),
        ):
            self._refuse_own(stage, section, usual)

    def _refuse_own(self, stage: str, section: Any, usual: Any) -> None:
        """A key that the pipeline sets would be passed over in silence; what is given once may be given again."""
        shared = _SHARED if stage in ("enrich", "finetune") else (*_SHARED, "phantom")
        for key in (*shared, *_OWN):
            if hasattr(section, key):
                value, again = getattr(section, key), key in shared
                expected = f"nothing: give it once, as --{key}" if again else "nothing: the pipeline sets it"
                same = value == getattr(usual, key) or (again and value == getattr(self, key))
                require(same, f"{stage}.{key}", value, expected)


_SHARED = ("reports", "images", "labels", "split", "seed", "workers")
"""Keys that are given once, for all jobs."""
_OWN = ("output", "describe", "restart", "finetuned", "what", "run", "against")
"""Keys of jobs that the pipeline fills in."""
