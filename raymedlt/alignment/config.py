"""Configuration of `jobs/align.py`: one frozen dataclass, a docstring under each field (see raymedlt/config.py).

The defaults are for a CPU and the small model of jobs/finetune.py; what the release of SemEnrich uses is named beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raymedlt.config import refuse_credentials, require
from raymedlt.storage import beside

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True)
class RolloutsConfig:
    """How completions are drawn."""

    prompts: int = 8
    """Studies per step, over all replicas."""
    generations: int = 8
    """Completions of each (G); advantages are relative to their mean. The release's: 8."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Who draws completions. vllm: much quicker where a model has billions of weights; needs a GPU, `pip install
    'trl[vllm]'`, and one of Hugging Face's models. A completion is then rewarded when its batch is done."""
    batch: int = 0
    """Completions that a replica generates together. 0: all of a step. Each is rewarded as soon as it ends, while
    others are still being generated; smaller batches need less memory and hide more of a slow reward's time, and take
    longer in all."""
    with_findings: float | None = 0.8
    """Share of the studies whose report names a finding; a normal report is soon written right by all completions, and
    teaches nothing, and a model that mostly sees those names fewer findings. null: as they come."""
    temperature: float = 1.0
    """Of the draws. The release's: 0.7."""
    top_p: float = 1.0
    """Draw from the likeliest words that have this share of the probability together."""
    max_tokens: int = 192
    """A completion ends here at the latest. The release's: 512."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "rollouts.prompts", self.prompts, "at least 1")
        require(self.generations >= 2, "rollouts.generations", self.generations, "at least 2: they are compared")
        require(self.batch >= 0, "rollouts.batch", self.batch, "0 or more")
        share = self.with_findings
        require(share is None or 0 <= share <= 1, "rollouts.with_findings", share, "a share in [0, 1], or null")
        require(self.temperature > 0, "rollouts.temperature", self.temperature, "a positive number")
        require(0 < self.top_p <= 1, "rollouts.top_p", self.top_p, "a probability in (0, 1]")
        require(self.max_tokens >= 1, "rollouts.max_tokens", self.max_tokens, "at least 1")


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """What completions are worth, and who computes it."""

    use: tuple[str, ...] = ("cluster_f1_strict", "finding_f1")
    """Names of rewards, which are added up: cluster_f1_strict, cluster_f1_weighted, cluster_f1 (the paper's), exact_f1,
    finding_f1, bleu, embedding_f1, format_reward, repetition_penalty, length_penalty; or package.module:function (see
    raymedlt/alignment/contract.py). Clusters alone reward what most reports say, and a policy then names fewer
    findings; so the findings count beside them."""
    weights: tuple[float, ...] | None = None
    """Of each in the sum. Default: 1."""
    clusters: str | None = None
    """Folder `model` of a finished run of jobs/enrich.py over the training reports. Default: the one that the model was
    fine-tuned with; on the phantom its training reports are clustered by the job itself."""
    severity: str | None = None
    """For cluster_f1_weighted: CSV table with the columns finding and severity. Default: the package's."""
    pool: Literal["auto", "threads", "actors"] = "auto"
    """threads: of the replica's own process; actors: Ray's worker processes, anywhere in the cluster. auto: actors
    where the training is under Ray. Rewards don't depend on it."""
    least: int = 1
    """Workers of each replica; of actors at least so many."""
    most: int = 2
    """Actors at most: there are more while rewards queue up."""
    deadline: float = 120.0
    """Seconds that a step waits for its rewards after everything else; a completion that has none then counts for
    nothing (not as 0). A worker that takes longer for one batch is replaced."""

    def __post_init__(self) -> None:
        refuse_credentials("rewards.clusters", self.clusters)
        require(bool(self.use), "rewards.use", self.use, "at least one name")
        require(len(set(self.use)) == len(self.use), "rewards.use", self.use, "each name once")
        require(
            self.weights is None or len(self.weights) == len(self.use),
            "rewards.weights", self.weights, f"{len(self.use)} numbers, one for each of rewards.use",
        )  # fmt: skip
        require(1 <= self.least <= self.most, "rewards.least", self.least, f"1 to rewards.most ({self.most})")
        require(self.deadline > 0, "rewards.deadline", self.deadline, "a positive number")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How the model learns: GRPO on a new LoRA of its language part; everything else stays as it was fine-tuned."""

    steps: int = 300
    """Optimizer steps; each one has its own rollouts."""
    rate: float = 5e-3
    """Learning rate (AdamW), along half a cosine. For billions of weights rather 1e-5."""
    beta: float = 0.04
    """Weight of the KL divergence from the fine-tuned model (k3 estimator). The release's: 0.04."""
    epsilon: float = 0.2
    """Clipping of the probability ratio."""
    loss: str = "dapo"
    """TRL's `loss_type`: grpo, dapo, dr_grpo, bnpo, ..."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the standard deviation of a study's completions, of all, nothing."""
    lora_rank: int = 8
    """Of the LoRA's matrices."""
    lora_alpha: float = 32.0
    """The product of the two matrices counts alpha / rank times."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Layers of the language part with LoRA matrices, by the end of their names."""
    micro_batch: int = 32
    """Completions whose gradients are computed together, on a replica."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    replicas: int = 1
    """Training processes of Ray Train."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage; 0: without DeepSpeed."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 arithmetic on a GPU, and on a CPU that has it in hardware."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where this machine or the Ray cluster has one for each replica."""
    checkpoint_steps: int = 25
    """Steps between two checkpoints; each one is also judged on validation studies, and the best one is kept."""
    validation: int = 128
    """Validation studies that it is judged on: one completion each is drawn and rewarded."""

    def __post_init__(self) -> None:
        for name in ("steps", "lora_rank", "micro_batch", "replicas", "checkpoint_steps", "validation"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        for name in ("rate", "clip", "epsilon"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "a positive number")
        require(self.beta >= 0, "training.beta", self.beta, "0 or more")
        require(bool(self.lora_targets), "training.lora_targets", self.lora_targets, "at least one name")


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Reward a fine-tuned model for what its reports say (GRPO), while it is still writing the next ones."""

    finetuned: str | None = None
    """Finished run folder of jobs/finetune.py: model, images and reports. Default: the folder `finetune` beside
    `output`, which the job makes itself on the phantom if it isn't there (11 minutes on two cores)."""
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    """Rollouts."""
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    """Rewards."""
    training: PolicyConfig = field(default_factory=PolicyConfig)
    """Training."""
    bootstrap: int = 1000
    """Resamples of patients for the 95 % intervals."""
    seed: int = 0
    """Seed of every random choice."""
    output: str = "runs/align"
    """Folder or URI (s3://, gs://, abfs://) that receives model, tables and page. The same command again resumes."""
    describe: bool = False
    """Print what would be done and run nothing."""
    restart: bool = False
    """Delete this job's earlier results in `output` and begin anew."""

    def __post_init__(self) -> None:
        refuse_credentials("finetuned", self.finetuned)
        refuse_credentials("output", self.output)
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "0 or more")
        completions, own = self.rollouts.prompts * self.rollouts.generations, self.training
        share = own.replicas * own.micro_batch
        require(
            completions % share == 0,
            "training.micro_batch", own.micro_batch,
            f"a divisor of {completions} / {own.replicas}: completions of a step (rollouts.prompts x "
            "rollouts.generations) per replica",
        )  # fmt: skip

    @property
    def base(self) -> str:
        """Where the fine-tuned model lies."""
        return self.finetuned or beside(self.output, "finetune")
