"""Losses and weights, training that helps and goes on exactly, the autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from generator_world import CLASSES, draw_rows, loop, phantoms, rows_of, tiny

from raymedlt.checkpoint import Checkpoints
from raymedlt.errors import InputError, RaymedltError
from raymedlt.storage import Storage
from raymedlt.synthesis.adapters import save_adapters, tensors_of
from raymedlt.synthesis.autoencoder import (
    Autoencoding,
    edge_error,
    reconstruct,
    train_autoencoder,
    train_decoder,
)
from raymedlt.synthesis.folder import load_generator, save_generator
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.learning import (
    TrainingRows,
    encode_images,
    held_out_losses,
    learn,
    rows_of_step,
    training_batch,
)
from raymedlt.synthesis.loop import LoopSettings, fit, rate_factor
from raymedlt.synthesis.losses import Schedule, denoising_loss
from raymedlt.synthesis.perceptual import Perceptual
from raymedlt.synthesis.settings import AutoencoderSettings, LearningSettings, SamplerSettings

CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
METHODS = ("tokens", "textual_inversion", "lora", "full")


class Killed(Exception):
    """Stands for a process that dies."""


class DyingCheckpoints(Checkpoints):
    """Dies after so many checkpoints."""

    left = 2

    def write(self, *arguments: Any) -> None:
        super().write(*arguments)
        self.left -= 1
        if not self.left:
            raise Killed


# Losses


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(prediction):
    schedule = Schedule.of(CONFIG | {"prediction_type": prediction})
    latents, noise, times = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 400, 999])
    left = schedule.alphas_cumprod_T[times].reshape(3, 1, 1, 1)

    def perfect(noisy, timesteps, embeddings):
        assert torch.equal(timesteps, times)
        found = (noisy - left.sqrt() * latents) / (1 - left).sqrt()
        return found if prediction == "epsilon" else (found - (1 - left).sqrt() * noisy) / left.sqrt()

    loss = denoising_loss(perfect, schedule, latents, torch.zeros(3, 2, 4), noise, times, min_snr_gamma=5.0)
    assert loss.shape == (3,)
    assert loss.max() < 1e-5
    wrong = denoising_loss(lambda z, t, c: 0 * z, schedule, latents, torch.zeros(3, 2, 4), noise, times)
    assert torch.allclose(wrong, schedule.target(latents, noise, times).square().mean((1, 2, 3)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_the_papers(prediction):
    schedule = Schedule.of(CONFIG | {"prediction_type": prediction})
    times = torch.tensor([0, 10, 200, 500, 900, 999])
    left = schedule.alphas_cumprod_T[times].double()
    snr = left / (1 - left)
    expected = snr.clamp_max(5) / (snr if prediction == "epsilon" else snr + 1)
    assert torch.allclose(schedule.min_snr_weights(times, 5.0).double(), expected, rtol=1e-4)


def test_a_schedule_that_ends_in_pure_noise_has_finite_weights():
    for prediction, last in (("epsilon", 1.0), ("v_prediction", 0.0)):
        schedule = Schedule.of(CONFIG | {"prediction_type": prediction, "rescale_betas_zero_snr": True})
        assert schedule.min_snr_weights(torch.tensor([999]), 5.0).item() == pytest.approx(last, abs=1e-6)


# What a step sees


def test_each_row_once_per_epoch():
    steps = [rows_of_step(10, None, 4, seed=1, step=step) for step in range(5)]
    rows = np.concatenate(steps)
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert list(rows[:10]) != list(rows[10:])
    assert sorted(rows_of_step(3, None, 9, seed=1, step=0)) == sorted([0, 1, 2] * 3)


def test_weights_decide_how_often_a_row_comes():
    rows = np.concatenate([rows_of_step(3, np.array([0.0, 1.0, 3.0]), 50, seed=1, step=step) for step in range(40)])
    shares = np.bincount(rows, minlength=3) / len(rows)
    assert shares == pytest.approx([0, 0.25, 0.75], abs=0.04)


def test_a_step_follows_from_its_number():
    generator = tiny()
    rows, settings = rows_of(generator, 16), LearningSettings(method="full", drop_text=0.5)
    one, two, other = (training_batch(generator, rows, settings, 1000, 16, 0, step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[1], other[1])
    empty = generator.token_ids([""])
    dropped = (torch.cat([one[3], other[3]]) == empty).all(1).float().mean()
    assert 0.2 < dropped < 0.8
    texts = {tuple(ids) for ids in one[3].tolist()}
    assert len(texts) > 3  # both wordings occur


# Training


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A generator whose autoencoder and U-Net have learnt a little, from 64 phantoms; and the losses on the way."""
    folder = tmp_path_factory.mktemp("base")
    generator = tiny()
    images, _, _ = phantoms(64)
    before = np.abs(reconstruct(generator, images).astype(float) - images).mean()
    train_autoencoder(
        generator, images, AutoencoderSettings(), loop(40, rate=6e-3), Checkpoints(Storage.of(str(folder / "a")))
    )
    after = np.abs(reconstruct(generator, images).astype(float) - images).mean()
    rows = rows_of(generator)
    start = held_out_losses(generator, rows, seed=9, timesteps=4).mean()
    learn(
        generator, rows, LearningSettings(method="full", train_text_encoder=True), loop(40, rate=4e-3),
        Checkpoints(Storage.of(str(folder / "d"))),
    )  # fmt: skip
    end = held_out_losses(generator, rows, seed=9, timesteps=4).mean()
    save_generator(generator, str(folder / "generator"))
    return str(folder / "generator"), (before, after), (start, end)


def test_training_from_scratch_helps(base):
    _, (before, after), (start, end) = base
    assert after < 0.6 * before
    assert end < 0.8 * start


def test_latents_have_unit_variance(base):
    rows = rows_of(load_generator(base[0]))
    assert (rows.mean_NCHW.var() + rows.std_NCHW.square().mean()).item() == pytest.approx(1, abs=0.02)


def test_latents_do_not_depend_on_the_number_of_images(base):
    generator = load_generator(base[0])
    assert torch.equal(rows_of(generator, 40).mean_NCHW[:8], rows_of(generator, 8).mean_NCHW)


@pytest.mark.parametrize("method", METHODS[:3])
def test_what_is_learnt_on_top_helps_and_leaves_the_generator_alone(base, tmp_path, method):
    generator = load_generator(base[0])
    weights = {name: each.clone() for name, each in generator.unet.state_dict().items()}
    bright = phantoms(32)
    images = np.clip(255 - bright[0], 0, 255).astype(np.uint8)  # other images than it was trained on: negatives
    rows = TrainingRows(*encode_images(generator, images), bright[1], bright[2])
    before = held_out_losses(generator, rows, seed=9, timesteps=4)
    settings = LearningSettings(method=method, shared=2, per_class=1, class_names=CLASSES, lora_rank=4)
    steps = 80 if method == "tokens" else 16  # few numbers, and a text that this small generator hardly hears
    learn(generator, rows, settings, loop(steps, rate=3e-2), Checkpoints(Storage.of(str(tmp_path / "c"))))
    after = held_out_losses(generator, rows, seed=9, timesteps=4)
    assert after.shape == (32,)
    assert after.mean() < before.mean()
    now = {name.replace("base_layer.", ""): each for name, each in generator.unet.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in weights.items())
    save_adapters(generator, str(tmp_path / "adapters"), {"steps": 16})
    again = load_generator(base[0], adapters=str(tmp_path / "adapters"))
    assert held_out_losses(again, rows, seed=9, timesteps=4).mean() == pytest.approx(after.mean(), rel=1e-4)
    if method != "lora":  # a merged LoRA rounds otherwise
        wanted = [("chest x-ray with pacemaker", ("Pacemaker",), 1)]
        settings_ = SamplerSettings(batch=2, steps=2)
        one, two = draw_rows(generator, wanted, settings_), draw_rows(again, wanted, settings_)
        assert (one.images_BSS == two.images_BSS).all()


def learnt(generator: Generator, method: str) -> dict[str, torch.Tensor]:
    return generator.unet.state_dict() if method == "full" else tensors_of(generator)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_killed_training_ends_like_an_undisturbed_one(tmp_path, method, precision):
    if precision == "bfloat16" and method != "full":
        pytest.skip("one method is enough for the other precision")
    ends, histories = [], []
    for killed in (False, True):
        storage = Storage.of(str(tmp_path / str(killed)))
        settings = LearningSettings(
            method=method, shared=2, train_text_encoder=True, gradient_checkpointing=method == "lora"
        )
        how = loop(5, checkpoint_seconds=0.0, report_steps=2, precision=precision, threads=1)
        for checkpoints in [DyingCheckpoints(storage), Checkpoints(storage)] if killed else [Checkpoints(storage)]:
            generator = tiny()
            rows = rows_of(generator, 16)
            if isinstance(checkpoints, DyingCheckpoints):
                with pytest.raises(Killed):
                    learn(generator, rows, settings, how, checkpoints)
            else:
                history = learn(generator, rows, settings, how, checkpoints)
        generator.base_hash = "any"
        ends.append(learnt(generator, method))
        histories.append([{key: line[key] for key in ("step", "loss", "rate")} for line in history])
    assert histories[0] == histories[1]
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


def test_a_killed_autoencoder_ends_like_an_undisturbed_one(tmp_path):
    images, _, _ = phantoms(16)
    ends = []
    for killed in (False, True):
        storage = Storage.of(str(tmp_path / str(killed)))
        for checkpoints in [DyingCheckpoints(storage), Checkpoints(storage)] if killed else [Checkpoints(storage)]:
            generator = tiny()
            how = loop(4, checkpoint_seconds=0.0)
            if isinstance(checkpoints, DyingCheckpoints):
                with pytest.raises(Killed):
                    train_autoencoder(generator, images, AutoencoderSettings(), how, checkpoints)
            else:
                train_autoencoder(generator, images, AutoencoderSettings(), how, checkpoints)
        ends.append(generator)
    assert ends[0].vae.config["scaling_factor"] == ends[1].vae.config["scaling_factor"]
    for name, tensor in ends[0].vae.state_dict().items():
        assert torch.equal(tensor, ends[1].vae.state_dict()[name]), name


def test_the_checkpoint_of_another_training_is_refused(tmp_path):
    checkpoints = Checkpoints(Storage.of(str(tmp_path)))
    fit(torch.nn.Sequential(Summed()), lambda step: (torch.zeros(2, 2),), _short(), checkpoints, print)
    with pytest.raises(InputError, match="a checkpoint of another training"):
        fit(Summed(), lambda step: (torch.zeros(2, 2),), _short(), Checkpoints(Storage.of(str(tmp_path))), print)


class Summed(torch.nn.Linear):
    """A network whose loss is one number."""

    def __init__(self) -> None:
        super().__init__(2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).sum()


def _short(**changes: Any) -> LoopSettings:
    return LoopSettings(**{"steps": 1, "batch": 1, "rate": 0.1, **changes})


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(RaymedltError, match=r"the loss is nan after 0 steps.*lower the rate"):
        fit(
            Summed(),
            lambda s: (torch.full((1, 2), torch.nan),),
            _short(),
            Checkpoints(Storage.of(str(tmp_path))),
            print,
        )


def test_the_rate_rises_and_falls():
    settings = _short(steps=100, warmup_steps=9, last_rate=0.1)
    factors = [rate_factor(step, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1
    assert factors[100] == pytest.approx(0.1)
    assert np.all(np.diff(factors[9:]) < 0)


def test_the_average_is_what_comes_out(tmp_path):
    network = Summed()
    weight = network.weight.detach().clone()
    fit(network, lambda step: (torch.ones(1, 2),), _short(ema=0.5), Checkpoints(Storage.of(str(tmp_path))), print)
    decay = min(0.5, 2 / 11)
    # Adam's first step is one rate long, and the rate is at the beginning of its rise
    assert torch.allclose(network.weight, weight - (1 - decay) * 0.1 / 101, atol=1e-6)


def test_a_finished_training_is_not_done_again(tmp_path):
    def never(step: int) -> tuple[torch.Tensor, ...]:
        raise AssertionError

    def again(steps: int, batch_of: Any) -> tuple[torch.nn.Module, list]:
        network = Summed()
        return network, fit(network, batch_of, _short(steps=steps), Checkpoints(Storage.of(str(tmp_path))), print)

    network, history = again(2, lambda step: (torch.ones(1, 2),))
    second, told = again(2, never)
    assert torch.equal(network.weight, second.weight)
    assert told == history
    with pytest.raises(InputError, match=r"a finished training of 2 steps.*one of 3 steps"):
        again(3, never)


# The autoencoder's loss


def test_edges_count_and_flat_differences_do_not():
    image = torch.rand(1, 1, 16, 16)
    assert edge_error(image, image + 0.3, 3).item() == pytest.approx(0, abs=1e-6)
    moved = image.roll(1, 3)
    assert edge_error(image, moved, 3) > 0.05
    naive = (image - moved).diff(dim=2).abs().mean() + (image - moved).diff(dim=3).abs().mean()
    assert edge_error(image, moved, 1).item() == pytest.approx(naive.item() / 2)


def test_the_divergence_of_a_unit_normal_is_zero():
    generator = tiny()
    images = torch.rand(2, 1, 32, 32)
    noise = torch.zeros(2, *generator.latent_shape)
    torch.nn.init.zeros_(generator.vae.quant_conv.weight)
    torch.nn.init.zeros_(generator.vae.quant_conv.bias)
    plain, heavy = (Autoencoding(generator.vae, AutoencoderSettings(kl=kl))(images, noise) for kl in (0.0, 100.0))
    assert torch.allclose(plain, heavy)


def test_the_perceptual_distance_sees_a_blur_that_absolute_error_hardly_does():
    images = torch.from_numpy(phantoms(8)[0]).float().unsqueeze(1) / 127.5 - 1
    distance = Perceptual("cpu")
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    darker = images - (blurred - images).abs().mean()
    assert distance(images, images).item() == 0
    assert (blurred - images).abs().mean() == pytest.approx((darker - images).abs().mean().item())
    assert distance(blurred, images) > 3 * distance(darker, images)


def test_the_perceptual_distance_teaches_the_images_and_not_its_network():
    images = (torch.rand(2, 1, 32, 32) * 2 - 1).requires_grad_()
    real = torch.rand(2, 1, 32, 32).requires_grad_()
    distance = Perceptual("cpu")
    distance(images, real).backward()
    assert images.grad.abs().max() > 0
    assert real.grad is None
    assert all(each.grad is None for each in distance.network.parameters())
    assert not distance.network.training


def test_the_perceptual_distance_is_part_of_the_loss():
    generator = tiny()
    images = torch.rand(2, 1, 32, 32)
    noise = torch.zeros(2, *generator.latent_shape)
    own = AutoencoderSettings(perceptual=2.0)
    without, besides = (Autoencoding(generator.vae, own, perceptual=on)(images, noise) for on in (False, True))
    found = generator.vae.decode(generator.vae.encode(images).latent_dist.mean).sample
    assert (besides - without).item() == pytest.approx(2 * Perceptual("cpu")(found, images).item(), rel=1e-4)


def test_the_decoder_learns_alone_and_comes_nearer_to_the_images(base, tmp_path):
    generator = load_generator(base[0])
    images = phantoms(64)[0]
    real = torch.from_numpy(images).unsqueeze(1) / 127.5 - 1

    def distance() -> float:
        return Perceptual("cpu")(torch.from_numpy(reconstruct(generator, images)).unsqueeze(1) / 127.5 - 1, real).item()

    before, latents = distance(), encode_images(generator, images)[0]
    scale = generator.vae.config["scaling_factor"]
    train_decoder(generator, images, AutoencoderSettings(), loop(30, rate=2e-3), Checkpoints(Storage.of(str(tmp_path))))
    assert distance() < 0.9 * before
    assert torch.equal(encode_images(generator, images)[0], latents)
    assert generator.vae.config["scaling_factor"] == scale
    assert not any(each.requires_grad for each in generator.vae.parameters())
