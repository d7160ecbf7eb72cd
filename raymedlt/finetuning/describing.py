"""What `--describe` says: what would be done, and how much memory the model takes."""

from __future__ import annotations

from dataclasses import replace

from raymedlt.config import config_hash
from raymedlt.cpus import cpus
from raymedlt.finetuning.build import shapes
from raymedlt.finetuning.config import SMALL, FinetuneConfig, data_of
from raymedlt.finetuning.report_runs import ReportRun
from raymedlt.finetuning.studies import phantom_reports
from raymedlt.ledger import FOLDER
from raymedlt.storage import Storage

_GIGABYTE = 1024**3
_SAMPLE = 200
"""Reports of the phantom whose words the small language model is sized by; it has few others."""


def description(config: FinetuneConfig, reports: ReportRun | None) -> str:
    """The text of `--describe`. Builds the model's shapes without weights; writes nothing.

    Raises:
        ConfigError, InputError: a model or reports that `run` would refuse.
    """
    own, model, storage = config.training, config.model, Storage.of(config.output)
    texts: list[str] = []
    if model.path is None and model.language == SMALL:
        texts = _words(config, reports)
    sizes = shapes(model, image_size=config.images.size, texts=texts)
    device, host = sizes.bytes_per_replica(own.zero, own.replicas, offload=own.offload)
    done: dict[str, int] = {}
    for name in storage.list_files(FOLDER):
        parts = name.split("/")
        if len(parts) == 3:
            done[parts[1]] = done.get(parts[1], 0) + 1
    source = (
        f"phantom: {config.phantom.images:,} training and validation images, {config.phantom.test_images:,} or more "
        "test images, and their reports"
        if reports is None
        else f"{reports.reports.num_rows:,} reports of {reports.uri}, images of {config.images.path}"
    )
    least = own.replicas if own.least_replicas is None else own.least_replicas
    replicas = f"{own.replicas} replicas" if least == own.replicas else f"{least} to {own.replicas} replicas"
    seeing = (
        f"{own.seeing_epochs} epochs of the encoder alone, on findings that the training texts claim"
        if config.sees_first
        else "not done: the encoder has weights, or nothing to see"
    )
    engine = "torch" if own.zero == 0 else f"DeepSpeed ZeRO-{own.zero}" + (", offloaded" if own.offload else "")
    steps = (
        ("labels", "which report belongs to which image"),
        ("prepare", f"decode or draw, {config.images.size} px, {config.images.shard_images:,} images per shard"),
        ("arrange", "patient-disjoint splits, leak check"),
        ("studies", f"training texts: {config.text.use}; format {config.text.format}, at most "
                    f"{config.text.max_tokens} tokens"),
        ("see", seeing),
        ("train", f"{own.epochs} epochs at most, {own.batch} studies per step in parts of {own.micro_batch}, "
                  f"{replicas}, {engine}, learning rate {config.settled_training.full_rate:g}"),
        ("export", f"the {config.keep} epoch's weights, LoRA merged, safetensors"),
        ("write", f"reports for {' and '.join(config.generation.splits)}, {config.generation.batch} together"),
        ("finish", f"scores ({config.scoring.bootstrap:,} resamples), page, cards"),
    )  # fmt: skip
    return "\n".join(
        [
            "raymedlt finetune: what would be done (nothing was run)",
            "",
            f"source     {source}",
            f"output     {storage.uri}",
            f"resources  {config.workers or cpus()} workers; Ray from {config.ray_from:,} images on, Ray Train with "
            "several replicas",
            f"model      {model.path or f'{model.vision}, {model.connector} connector, {model.language}'}; "
            f"{model.settled_method}",
            f"           {sizes.parameters:,} weights, {sizes.learning:,} of them learn",
            f"memory     {device / _GIGABYTE:.2f} GB per replica for weights, gradients and AdamW (float32)"
            + (f", {host / _GIGABYTE:.2f} GB of the CPU" if host else "")
            + "; activations come on top",
            f"hash       {config_hash(config)}",
            "",
            *(f"{name:<10} {text}" + (f"  [{done[name]} done]" if name in done else "") for name, text in steps),
            "",
            "tables     generations/, rejected/",
            "model      model/ (raymedlt.finetuning.load)",
            "page       report.html",
        ]
    )


def _words(config: FinetuneConfig, reports: ReportRun | None) -> list[str]:
    if reports is not None:
        return list(reports.reports["findings"].to_pylist())
    phantom = replace(config.phantom, images=max(100, min(config.phantom.images, _SAMPLE)), test_images=1)
    table = phantom_reports(replace(data_of(config), phantom=phantom))
    return list(table["complete_findings" if config.text.use == "complete" else "findings"].to_pylist())
