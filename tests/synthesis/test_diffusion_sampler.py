"""The sampler: an image's bits are its row's, whatever lies beside it; what is refused; PNG."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
from generator_world import CLASSES, draw_rows, tiny
from PIL import Image

from raymedlt.errors import ConfigError, InputError, RaymedltError
from raymedlt.synthesis.adapters import add_tokens
from raymedlt.synthesis.broken import check_image
from raymedlt.synthesis.generator import Generator
from raymedlt.synthesis.sampler import draw, encode_png, prompt_embeddings
from raymedlt.synthesis.settings import SamplerSettings

ROWS = [
    ("chest x-ray with pacemaker", ("Pacemaker",), 2**62 + 1),
    ("frontal chest x-ray", (), 5),
    ("pleural effusion and pacemaker", CLASSES, 6),
    ("large pleural effusion", ("Pleural effusion",), 7),
    ("chest x-ray", (), 8),
]


@pytest.fixture(scope="module")
def generator() -> Generator:
    found = tiny()
    add_tokens(found, shared=2, per_class=2, class_names=CLASSES, seed=0)
    found.freeze()
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [5, 7])
def test_the_bits_of_an_image_are_its_rows(generator, precision, batch):
    settings = SamplerSettings(batch=batch, steps=3, guidance=2.5, precision=precision)
    together = draw_rows(generator, ROWS, settings).images_BSS
    turned = draw_rows(generator, ROWS[::-1], settings).images_BSS[::-1]
    moved = draw_rows(generator, ROWS[2:] + ROWS[:2], settings).images_BSS
    assert (together == turned).all()
    assert (together == np.roll(moved, 2, axis=0)).all()
    for number, row in enumerate(ROWS):
        assert (draw_rows(generator, [row], settings).images_BSS[0] == together[number]).all(), number
    assert len({image.tobytes() for image in together}) == len(ROWS)


def test_latents_too_do_not_depend_on_their_place(generator):
    # grey levels could hide small differences: compare the floats before they are rounded
    from raymedlt.synthesis.sampler import denoise

    settings = SamplerSettings(batch=6, steps=2, precision="bfloat16")
    noise = torch.randn(6, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    texts = torch.randn(6, 18, 32, generator=torch.Generator().manual_seed(1))
    empty = torch.randn(1, 18, 32, generator=torch.Generator().manual_seed(2)).expand(6, -1, -1)
    with torch.inference_mode():
        one = denoise(generator, noise, texts, empty, settings)
        two = denoise(generator, noise.roll(1, 0), texts.roll(1, 0), empty, settings).roll(-1, 0)
    assert torch.equal(one, two)


def test_seed_prompt_guidance_and_scheduler_matter(generator):
    settings = SamplerSettings(batch=2, steps=3)
    prompt, names, seed = ROWS[0]
    plain = draw_rows(generator, [ROWS[0]], settings).images_BSS
    assert (draw_rows(generator, [ROWS[0]], settings).images_BSS == plain).all()
    changed = [
        draw_rows(generator, [(prompt, names, seed + 1)], settings),
        draw_rows(generator, [("large pleural effusion", names, seed)], settings),
        draw_rows(generator, [(prompt, CLASSES, seed)], settings),  # the class's own tokens
        draw_rows(generator, [ROWS[0]], SamplerSettings(batch=2, steps=3, guidance=30.0)),
        draw_rows(generator, [ROWS[0]], SamplerSettings(batch=2, steps=3, scheduler="ddim")),
    ]
    for number, drawn in enumerate(changed):
        assert (drawn.images_BSS != plain).any(), number


def test_guidance_1_needs_one_branch(generator):
    seen = []
    hook = generator.unet.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    draw_rows(generator, ROWS[:1], SamplerSettings(batch=3, steps=2, guidance=1.0))
    draw_rows(generator, ROWS[:1], SamplerSettings(batch=3, steps=2, guidance=2.0))
    hook.remove()
    assert seen == [3, 3, 6, 6]


def test_each_prompt_is_embedded_once(generator):
    found = prompt_embeddings(generator, ["chest", "chest", "pacemaker"], batch=2)
    assert list(found) == ["chest", "pacemaker"]
    assert torch.equal(found["chest"], prompt_embeddings(generator, ["chest"], batch=2)["chest"])
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in found.values())  # not that of the batch


def test_an_image_that_is_not_finite_is_named_and_black(generator):
    found = prompt_embeddings(generator, ["", "chest", "pacemaker"])
    texts = torch.stack([found["chest"], torch.full_like(found["chest"], torch.nan)])
    drawn = draw(generator, texts, found[""][None], [1, 2], SamplerSettings(batch=3, steps=2))
    assert drawn.reasons[1] == "not finite"
    assert drawn.reasons[0] != "not finite"
    assert not drawn.images_BSS[1].any()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((32, 32), np.uint8), "black image"),
        (np.full((32, 32), 90, np.uint8), "flat image"),
        (np.pad(np.full((6, 6), 200, np.uint8), 13), "black image"),
        (np.pad(np.full((28, 28), 255, np.uint8), 2), "saturated image"),
        (np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8), ""),
    ],
)
def test_images_that_show_nothing(image, reason):
    assert check_image(image) == reason


def test_png_keeps_the_pixels_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encode_png(image)
    assert (np.asarray(Image.open(io.BytesIO(data))) == image).all()
    assert data == encode_png(image.copy())
    kinds, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8])
        assert zlib.crc32(data[at + 4 : at + 8 + length]).to_bytes(4, "big") == data[at + 8 + length : at + 12 + length]
        at += 12 + length
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_out_of_memory_names_the_batch_to_use(generator):
    def full(module, arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = generator.unet.register_forward_pre_hook(full)
    try:
        with pytest.raises(
            RaymedltError, match=r"batch shape 8 x 32 x 32.*--sampling\.batch 4 with a new output folder"
        ):
            draw_rows(generator, ROWS[:1], SamplerSettings(batch=8, steps=1))
    finally:
        hook.remove()


def test_other_errors_stay_what_they_are(generator):
    with pytest.raises(RuntimeError, match=r"size|shape"):
        draw(generator, torch.zeros(1, 14, 31), torch.zeros(1, 14, 31), [1], SamplerSettings(batch=1, steps=1))


def test_batches_that_do_not_fit(generator):
    with pytest.raises(InputError, match="5 seeds, 5 embeddings, 5 label sets for a batch of 4"):
        draw_rows(generator, ROWS, SamplerSettings(batch=4, steps=1))
    with pytest.raises(ConfigError, match=r"sampling\.guidance is 0\.5"):
        SamplerSettings(guidance=0.5)
