from __future__ import annotations

import pytest
import safetensors.torch
import timm
import torch
from tiny_vlms import images

from raymedlt.errors import ConfigError, InputError
from raymedlt.evaluation.findings import every_group
from raymedlt.finetuning.build import refuse_bad_model
from raymedlt.finetuning.config import ModelConfig
from raymedlt.finetuning.connector import Connector
from raymedlt.finetuning.vision import SeeingHead, VisionEncoder, build_vision

PIXELS = torch.from_numpy(images())


def encoder(name: str = "test_resnet", **keys: object) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(name, 64, **keys)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("test_resnet", [(192, 4), (96, 2)]),
        ("tf_efficientnet_lite0", [(112, 4), (320, 2)]),
        ("convnext_atto", [(160, 4), (320, 2)]),
        ("test_vit", [(64, 4)]),
    ],
)
def test_the_deepest_map_and_finer_ones_until_four_places_a_side(name: str, levels: list[tuple[int, int]]) -> None:
    own = encoder(name)
    assert [tuple(level)[:2] for level in own.levels] == levels
    assert [tuple(each.shape) for each in own(PIXELS)] == [(3, channels, side, side) for channels, side in levels]


def test_one_map_where_the_deepest_is_fine_enough() -> None:
    assert [tuple(level)[:2] for level in VisionEncoder("test_resnet", 224).levels] == [(96, 7)]


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "convnext_atto", "test_vit"])
def test_every_weight_learns(name: str) -> None:
    own = encoder(name)
    sum(each.square().sum() for each in own(PIXELS)).backward()
    assert [name for name, each in own.named_parameters() if each.grad is None] == []


def test_an_images_features_depend_on_no_other_image_while_learning() -> None:
    own = encoder("tf_efficientnet_lite0").train().double()  # float32 rounds by the number of threads
    for alone, together in zip(own(PIXELS[:1]), own(PIXELS), strict=True):
        torch.testing.assert_close(alone[0], together[0])


def test_batch_norms_settle_their_statistics_only_when_asked() -> None:
    own = encoder().train()
    before = {name: each.clone() for name, each in own.named_buffers()}
    own(PIXELS)
    assert "network.bn1.running_mean" in before
    assert all(torch.equal(each, before[name]) for name, each in own.named_buffers())
    own.settling = True
    own.train()(PIXELS)
    assert not torch.equal(own.network.bn1.running_mean, before["network.bn1.running_mean"])


def test_pixels_as_bytes_and_as_shares_are_the_same() -> None:
    own = encoder()
    torch.testing.assert_close(own(PIXELS)[0], own(PIXELS.float() / 255)[0])


def test_frozen_learns_nothing_and_drops_nothing_out() -> None:
    own = encoder()
    own.freeze()
    own.train()
    assert not own.network.training
    assert not any(each.requires_grad for each in own.parameters())


def test_lite0_starts_with_the_packaged_weights() -> None:
    own, again = build_vision("efficientnet-lite0", 64), build_vision("efficientnet-lite0", 64)
    assert own.inputs == 3
    torch.testing.assert_close(own(PIXELS)[1], again(PIXELS)[1])
    assert not torch.equal(own.network.conv_stem.weight, timm.create_model("tf_efficientnet_lite0").conv_stem.weight)


def test_weights_of_a_classifier_of_the_same_network(tmp_path) -> None:
    network = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    tensors = {f"backbone.network.{name}": each for name, each in network.state_dict().items()}
    (tmp_path / "model").mkdir()
    safetensors.torch.save_file({**tensors, "head.weight": torch.ones(2)}, tmp_path / "model" / "member-0.safetensors")
    own = build_vision("test_resnet", 64, str(tmp_path))
    wanted = network.eval().forward_intermediates(
        (PIXELS.unsqueeze(1) / 255 - 0.5) / 0.25, indices=[3, 4], intermediates_only=True
    )
    for got, want in zip(own.eval()(PIXELS), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    network = timm.create_model("test_efficientnet", num_classes=0, in_chans=1)
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    with pytest.raises(ConfigError, match=r"do not fit model\.vision 'test_resnet': they lack the first layer"):
        build_vision("test_resnet", 64, str(file))
    with pytest.raises(InputError, match=r"there is no model\.safetensors and no"):
        build_vision("test_resnet", 64, str(tmp_path))


def test_a_damaged_file_of_weights_is_refused_before_any_work(tmp_path) -> None:
    file = tmp_path / "empty.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.vision_weights names .*0 bytes that are no safetensors file"):
        refuse_bad_model(ModelConfig(vision_weights=str(file)), image_size=64)


def test_unknown_networks_are_refused_with_near_names() -> None:
    with pytest.raises(ConfigError, match=r"model\.vision is 'test_resnett'.*such as test_resnet"):
        VisionEncoder("test_resnett", 64)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"images of shape \(3, 32, 32\).*set images\.size to 64"):
        encoder()(PIXELS[:, :32, :32])


def test_seeing_head_is_the_formula_of_its_docstring() -> None:
    own = encoder("tf_efficientnet_lite0").eval()
    head = SeeingHead(own.levels, 5).eval()
    maps = [each.detach() for each in own(PIXELS)]
    wanted = torch.zeros(3, 5)
    for x_BCHW, own_head in zip(maps, head.heads, strict=True):
        weight_FC, query_FC, bias_F = own_head.weight_FC, own_head.query_FC, own_head.bias_F
        for image in range(3):
            x_CK = own_head.norm(x_BCHW)[image].flatten(1)
            for finding in range(5):
                attended_C = x_CK @ (query_FC[finding] @ x_CK).softmax(0)
                wanted[image, finding] += weight_FC[finding] @ (x_CK.mean(1) + attended_C) + bias_F[finding]
    torch.testing.assert_close(head(maps), wanted, rtol=1e-4, atol=1e-4)


def test_it_tells_what_it_sees() -> None:
    own = encoder(findings=("mass", "nodule")).eval()
    assert own.levels[-1] == (2, 1, True)
    maps = own(PIXELS)
    torch.testing.assert_close(maps[-1][:, :, 0, 0], own.logits(PIXELS).sigmoid())
    torch.testing.assert_close(own.features(PIXELS)[0], maps[0])


def test_one_without_weights_knows_every_finding_and_a_given_one_none() -> None:
    assert build_vision("test_resnet", 64).findings == every_group()
    assert build_vision("efficientnet-lite0", 64).findings == ()


def test_a_seen_finding_adds_its_own_vector_at_every_place() -> None:
    own = encoder(findings=("mass", "nodule"))
    connector = Connector(own.levels, 32, "linear", 2, 2, 4)
    assert connector.tokens == 20
    maps = own.features(PIXELS)
    tokens = connector([*maps, torch.tensor([0.0, 0.5]).expand(3, 2)[:, :, None, None]])
    parts = zip(maps, connector.norms, connector.projections, strict=True)
    places = torch.cat([line(norm(each.flatten(2).transpose(1, 2))) for each, norm, line in parts], 1)
    places = places + connector.places_KD
    torch.testing.assert_close(tokens, connector.out(connector.norm(places + 0.5 * connector.seen.weight[:, 1])))


def test_linear_connector_makes_a_token_of_every_place() -> None:
    own = encoder()
    connector = Connector(own.levels, 32, "linear", 2, 2, 4)
    assert connector.tokens == 20
    assert connector(own(PIXELS)).shape == (3, 20, 32)


def test_queries_look_at_the_places() -> None:
    own = encoder("tf_efficientnet_lite0")
    connector = Connector(own.levels, 32, "queries", 3, 2, 4)
    maps = own(PIXELS)
    tokens = connector(maps)
    assert tokens.shape == (3, 3, 32)
    changed = connector([maps[0], maps[1] + torch.randn(320, 2, 2)])
    assert not torch.allclose(tokens, changed)
    tokens.sum().backward()
    assert [name for name, each in connector.named_parameters() if each.grad is None] == []
