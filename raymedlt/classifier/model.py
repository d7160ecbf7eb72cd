"""TRCGL-Net's classifier (arXiv 2607.00975) as one network: backbone, gate, class-aware attention, label graph.

    x = BatchNorm2d(backbone(image));  x' = x + r (x * g)
    image_logit_c = w_c . mean_k(x_k) + b_c + lam (w_c . v_c + b_c)
    logit_c = image_logit_c + alpha label_logit_c

Every module can be off; then its term is not there and its weights do not exist.

Shapes: B images, C classes, D channels, H x W positions of the feature map, K = H * W, S pixels along a side, E width
of the label nodes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from raymedlt.classifier.backbone import Backbone, build_backbone
from raymedlt.classifier.config import ModelConfig
from raymedlt.classifier.label_graph import LabelGraph
from raymedlt.classifier.modules import ChannelReweighting, ClassAwareAttention, ClassSpecificResidualAttention
from raymedlt.errors import InputError
from raymedlt.seeds import keyed_seed

NODE_WIDTH = 256
"""Width of learnable label nodes, and of the hidden layer of the label graph (the release's)."""

_KEY, _FORMAT = "raymedlt.classifier", 1


class Output(NamedTuple):
    """What the network gives out."""

    logits_BC: Tensor
    """float32."""
    maps_BCHW: Tensor | None
    """Attention maps, each summing to 1; None without attention, or where they weren't asked for."""


class LabelGraphClassifier(nn.Module):
    """The network of the module docstring. Make it with `build` or `from_safetensors`.

    The gate changes only what attention and label graph read, so with both of them off it is not there either.

    Args:
        config: the section `model`.
        classes: names of the classes, in the order of the logits.
        backbone: gives the feature map.
        adjacency_CC: normalised label graph; None where model.graph is off.
        nodes_CE: start of the label nodes; None where model.graph is off.
        seed: of the modules' start; the backbone is as it is given.

    Shapes:
        images_B1SS (uint8, or float in [0, 1]) -> Output
    """

    def __init__(
        self,
        config: ModelConfig,
        classes: Sequence[str],
        backbone: Backbone,
        adjacency_CC: Tensor | None,
        nodes_CE: Tensor | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.classes = config, tuple(classes)
        self.backbone = backbone
        self.backbone_frozen = False
        channels, learnable = backbone.channels, config.learnable_strengths
        self.norm = nn.BatchNorm2d(channels)
        with _seeded(seed, "head"):
            self.head = nn.Linear(channels, len(self.classes))
        self.attention: ClassAwareAttention | ClassSpecificResidualAttention | None = None
        with _seeded(seed, "attention"):
            if config.attention == "class_aware":
                strength = config.attention_strength
                self.attention = ClassAwareAttention(len(self.classes), channels, strength, learnable)
            elif config.attention == "csra":
                self.attention = ClassSpecificResidualAttention(config.attention_strength, learnable)
        self.graph: LabelGraph | None = None
        if adjacency_CC is not None and nodes_CE is not None:
            with _seeded(seed, "graph"):
                self.graph = LabelGraph(
                    adjacency_CC, nodes_CE, channels, config.graph_strength, learnable, NODE_WIDTH, config.graph_dropout
                )
        self.gate: ChannelReweighting | None = None
        if config.gate and not (self.attention is None and self.graph is None):
            with _seeded(seed, "gate"):
                self.gate = ChannelReweighting(channels, config.gate_strength, learnable)

    def forward(self, images_B1SS: Tensor, with_maps: bool = False) -> Output:
        """Logits, and the attention maps where they are asked for."""
        x_BDHW = self.norm(self.backbone(images_B1SS))
        with torch.autocast(x_BDHW.device.type, enabled=False):  # bfloat16 logits would tie: 256 values between 1 and 2
            return self._heads(x_BDHW.float(), with_maps)

    def _heads(self, x_BDHW: Tensor, with_maps: bool) -> Output:
        gated_BDHW = x_BDHW if self.gate is None else self.gate(x_BDHW)
        logits_BC = self.head(x_BDHW.mean(dim=(2, 3))).float()
        maps_BCHW = None
        if self.attention is not None:
            spatial_BC, maps_BCK = self.attention(gated_BDHW.flatten(2), self.head.weight, self.head.bias)
            logits_BC = logits_BC + self.attention.strength * spatial_BC.float()
            if with_maps:
                maps_BCHW = maps_BCK.float().unflatten(2, x_BDHW.shape[2:])
        if self.graph is not None:
            logits_BC = logits_BC + self.graph.strength * self.graph(gated_BDHW.mean(dim=(2, 3))).float()
        return Output(logits_BC, maps_BCHW)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but a frozen backbone stays in evaluation mode: its batch norms keep their statistics."""
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self


def build(
    config: ModelConfig,
    classes: Sequence[str],
    adjacency_CC: ArrayLike | None,
    label_text_vectors: ArrayLike | None,
    seed: int,
) -> LabelGraphClassifier:
    """A fresh network, the same for the same arguments (and torch version).

    Every part has a start of its own: switching one module off leaves the start of all others as it was. torch's global
    generators are left untouched.

    Args:
        config: the section `model`.
        classes: names of the classes.
        adjacency_CC: from label_graph.py; not used where model.graph is off.
        label_text_vectors: [C, E], sentence embeddings of the class names; used where model.graph_features is text.
        seed: the run's.

    Raises:
        ConfigError: backbone or weights that can't be used.
        InputError: no classes, or graph or vectors that are needed and missing or of another shape.
    """
    if not classes:
        raise InputError("a network without classes", "at least one class", "see labels.classes, labels.min_positives")
    with _seeded(seed, "backbone"):
        backbone = build_backbone(config)
    adjacency, nodes = None, None
    if config.graph != "off":
        adjacency = _matrix(adjacency_CC, len(classes), "label graph")
        if adjacency.shape[1] != len(classes):
            raise InputError(f"a label graph of shape {tuple(adjacency.shape)}", f"{len(classes)} rows and columns")
        if config.graph_features == "text":
            nodes = _matrix(label_text_vectors, len(classes), "table of class-name vectors")
        else:
            with _seeded(seed, "nodes"):
                nodes = torch.randn(len(classes), NODE_WIDTH) * NODE_WIDTH**-0.5  # unit length, about
    return LabelGraphClassifier(config, classes, backbone, adjacency, nodes, seed)


def _matrix(values: ArrayLike | None, rows: int, what: str) -> Tensor:
    if values is None:
        raise InputError(f"no {what}, which model.graph needs", f"one row for each of the {rows} classes")
    matrix = torch.tensor(np.asarray(values, np.float32))
    if matrix.ndim != 2 or len(matrix) != rows or not torch.isfinite(matrix).all():
        raise InputError(f"a {what} of shape {tuple(matrix.shape)}", f"{rows} rows of finite numbers")
    return matrix


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    """torch's generator of the CPU, seeded for one part of the network and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, which fork_rng then would not put back.
        torch.default_generator.manual_seed(keyed_seed(seed, "model", part))
        yield


# Training


def freeze_backbone(model: LabelGraphClassifier, frozen: bool) -> None:
    """Whether the backbone is left as it is: no gradients, and evaluation mode (batch norms, stochastic depth)."""
    model.backbone_frozen = frozen
    model.backbone.requires_grad_(not frozen)
    model.train(model.training)


def parameter_groups(
    model: LabelGraphClassifier, backbone_rate: float, rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters in groups for an optimizer: backbone and the rest, with and without weight decay.

    No decay on what has fewer than two dimensions: biases, norms, strengths. Groups without parameters are left out;
    each has a "name".
    """
    groups: list[dict[str, Any]] = []
    for part, learning_rate in (("backbone", backbone_rate), ("rest", rate)):
        trainable = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.startswith("backbone.") == (part == "backbone")
        ]
        for suffix, decay in (("", weight_decay), (" without decay", 0.0)):
            members = [parameter for parameter in trainable if (parameter.ndim >= 2) == (suffix == "")]
            if members:
                groups.append({"name": part + suffix, "params": members, "lr": learning_rate, "weight_decay": decay})
    return groups


# Storage


def to_safetensors(model: LabelGraphClassifier) -> bytes:
    """The network as one safetensors file that needs nothing else: weights, label graph, class names, configuration.

    The bytes follow from the values alone. `model.weights` is left out (it may be a path of this machine).
    """
    settings = dataclasses.asdict(dataclasses.replace(model.config, weights=None))
    about = {
        "format": _FORMAT,
        "model": settings,
        "classes": list(model.classes),
        "inputs": model.backbone.inputs,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One key: safetensors keeps its metadata in a hash map, and more keys would come in any order.
    return bytes(safetensors.torch.save(tensors, {_KEY: json.dumps(about, sort_keys=True)}))


def from_safetensors(data: bytes) -> LabelGraphClassifier:
    """The network of `to_safetensors`, in evaluation mode on the CPU.

    Raises:
        InputError: not such a file.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        tensors = safetensors.torch.load(data)
        form = int(about["format"])
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError):
        raise _not_ours("no metadata of raymedlt, or damaged") from None
    if form != _FORMAT:
        raise _not_ours(f"format {form}, this version reads {_FORMAT}")
    try:
        config, classes = ModelConfig(**about["model"]), list(about["classes"])
    except TypeError:
        raise _not_ours("its settings are not those of this version's section 'model'") from None
    adjacency, nodes = tensors.get("graph.adjacency_CC"), tensors.get("graph.nodes_CE")
    with _seeded(0, "backbone"):  # drawn and then replaced; the caller's generator stays as it is
        backbone = Backbone(config.backbone, config.drop_path, about["inputs"])
    model = LabelGraphClassifier(config, classes, backbone, adjacency, nodes, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise _not_ours(f"its tensors are not those of model.backbone {config.backbone!r}; timm may differ") from None
    return model.eval()


def _not_ours(what: str) -> InputError:
    return InputError(f"a file that is not a classifier of raymedlt: {what}", "model.safetensors of jobs/classify.py")
