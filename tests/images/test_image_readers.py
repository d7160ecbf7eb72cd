"""Image files: scaling of every kind of pixel, and a reason for every kind of bad file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from raymedlt.images.readers import UnreadableImage, decode, read_square, to_square
from raymedlt.storage import Storage

LIMIT = 1_000_000
RAMP = np.arange(240, dtype=np.uint8).reshape(12, 20)
SMOOTH = np.add.outer(np.arange(24) * 4, np.arange(40) * 3).astype(np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (30, 40)).astype(np.uint8)
REAL = Path(__file__).parents[3] / "shared" / "data" / "nih1993_64" / "images"


def encoded(image, kind="PNG", **options):
    """An array or a Pillow image as a file of `kind`."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(pixels, syntax=ExplicitVRLittleEndian, **tags):
    """A DICOM file of one grayscale frame; `tags` replace or add elements, None leaves one out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"
    stored = 8 * pixels.dtype.itemsize
    values = {
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "BitsAllocated": stored,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelData": pixels.tobytes(),
    }
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    if "PixelData" in data and isinstance(data.PixelData, bytes):
        data["PixelData"].VR = "OB" if stored == 8 else "OW"
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reason(data, max_pixels=LIMIT):
    with pytest.raises(UnreadableImage) as caught:
        decode(data, max_pixels=max_pixels)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def shown(data):
    image = decode(data, max_pixels=LIMIT)
    assert image.dtype == np.float32
    assert image.ndim == 2
    assert image.min() >= 0
    assert image.max() <= 1
    return image


# PNG


def test_eight_bit_png_is_divided_by_255():
    np.testing.assert_allclose(shown(encoded(RAMP)), RAMP / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_gray_in_colour_files_is_the_same_gray(mode):
    picture = Image.fromarray(RAMP).convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(np.full_like(RAMP, 7)))
    np.testing.assert_allclose(shown(encoded(picture)), RAMP / 255, atol=1e-7)


def test_colour_becomes_luminance():
    pixels = np.zeros((4, 3, 3), np.uint8)
    pixels[:, 0, 0] = pixels[:, 1, 1] = pixels[:, 2, 2] = 255
    np.testing.assert_allclose(shown(encoded(pixels))[0], [0.299, 0.587, 0.114], atol=0.003)


def test_one_bit_png():
    pixels = (RAMP % 3 == 0).astype(np.uint8)
    np.testing.assert_array_equal(shown(encoded(Image.fromarray(pixels * 255).convert("1"))), pixels)


@pytest.mark.parametrize(
    ("largest", "full"), [(200, 255), (700, 1023), (4095, 4095), (3000, 4095), (9000, 16383), (16384, 65535)]
)
def test_sixteen_bit_png_is_scaled_by_the_bits_it_uses(largest, full):
    values = np.linspace(0, largest, 60).round().astype(np.uint16).reshape(6, 10)
    np.testing.assert_allclose(shown(encoded(values)), values / full, atol=1e-6)


# JPEG


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(mode):
    data = encoded(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=98)
    np.testing.assert_allclose(shown(data), SMOOTH / 255, atol=0.03)


def test_jpeg_follows_its_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = encoded(SMOOTH, "JPEG", quality=98, exif=exif)
    np.testing.assert_allclose(shown(data), np.rot90(SMOOTH, -1) / 255, atol=0.03)


# DICOM


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_dicom_without_window_is_scaled_by_its_own_range(syntax):
    pixels = (RAMP.astype(np.uint16) + 100) * 10
    np.testing.assert_allclose(shown(dicom(pixels, syntax)), RAMP / 239, atol=1e-6)


def test_monochrome1_is_inverted():
    pixels = RAMP.astype(np.uint16)
    image = shown(dicom(pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(image, 1 - RAMP / 239, atol=1e-6)


def test_signed_values_and_rescale_come_before_the_window():
    pixels = RAMP.astype(np.int16) - 100  # -100 ... 139; rescaled -190 ... 288
    data = dicom(pixels, RescaleSlope=2, RescaleIntercept=10, WindowCenter=10.5, WindowWidth=101)
    expected = np.clip((pixels * 2.0 + 10 - 10) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(shown(data), expected, atol=1e-6)
    assert set(np.unique(expected)) >= {0, 1}, "the window clips nothing"


def test_the_first_of_several_windows_counts():
    pixels = RAMP.astype(np.uint16)
    one = shown(dicom(pixels, WindowCenter=100, WindowWidth=50))
    two = shown(dicom(pixels, WindowCenter=[100, 10], WindowWidth=[50, 900]))
    np.testing.assert_array_equal(one, two)


def test_other_window_functions():
    pixels = RAMP.astype(np.uint16)
    window = {"WindowCenter": 120, "WindowWidth": 80}
    exact = shown(dicom(pixels, VOILUTFunction="LINEAR_EXACT", **window))
    np.testing.assert_allclose(exact, np.clip((RAMP - 120.0) / 80 + 0.5, 0, 1), atol=1e-6)
    sigmoid = shown(dicom(pixels, VOILUTFunction="SIGMOID", **window))
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-4 * (RAMP - 120.0) / 80)), atol=1e-6)


def test_voi_lut_goes_before_the_window():
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table.LUTData = [4095 - 16 * value for value in range(256)]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    data = dicom(RAMP, VOILUTSequence=[table], WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(shown(data), (4095 - 16.0 * RAMP) / 4095, atol=1e-6)


@pytest.mark.parametrize("colour", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_has_no_part_in_the_range(colour):
    pixels = RAMP.astype(np.uint16) + 100
    pixels[:2] = 65_000
    image = shown(dicom(pixels, PixelPaddingValue=65_000, PhotometricInterpretation=colour))
    assert (image[:2] == 0).all()
    rest = (RAMP[2:] - 40.0) / 199
    np.testing.assert_allclose(image[2:], rest if colour == "MONOCHROME2" else 1 - rest, atol=1e-6)


def test_compressed_dicom():
    data = pydicom.dcmread(io.BytesIO(dicom(RAMP)))
    data.compress(RLELossless)
    buffer = io.BytesIO()
    data.save_as(buffer)
    np.testing.assert_allclose(shown(buffer.getvalue()), RAMP / 239, atol=1e-6)
    jpeg = encapsulate([encoded(SMOOTH, "JPEG", quality=98)])
    image = shown(dicom(SMOOTH, JPEGBaseline8Bit, PixelData=jpeg, WindowCenter=128, WindowWidth=256))
    np.testing.assert_allclose(image, SMOOTH / 255, atol=0.03)


def test_colour_dicom_becomes_luminance():
    pixels = np.repeat(RAMP[:, :, None], 3, axis=2)
    data = dicom(pixels, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_allclose(shown(data), RAMP / 255, atol=1e-6)


# Bad files


def png_that_claims(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_that_claims(width, height):
    data = encoded(SMOOTH, "JPEG")
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def test_too_many_pixels_is_told_from_the_header():
    assert reason(png_that_claims(30_000, 30_000), 50_000_000).startswith("too many pixels")
    assert reason(png_that_claims(1001, 1000)) == "too many pixels: 1001000"
    assert reason(jpeg_that_claims(60_000, 60_000), 50_000_000).startswith("too many pixels")
    assert reason(jpeg_that_claims(2000, 1000)) == "too many pixels: 2000000"
    assert reason(dicom(RAMP, Rows=30_000, Columns=30_000)) == "too many pixels: 900000000"
    assert reason(dicom(RAMP, NumberOfFrames=10_000)) == "too many pixels: 2400000"
    jpeg = encapsulate([jpeg_that_claims(9000, 9000)])
    assert reason(dicom(SMOOTH, JPEGBaseline8Bit, PixelData=jpeg)) == "corrupt dicom"


def test_multi_frame_dicom():
    data = dicom(RAMP, NumberOfFrames=12, PixelData=RAMP.tobytes() * 12)
    assert reason(data) == "multi-frame dicom: 12 frames"


def test_dicom_without_pixels():
    assert reason(dicom(RAMP, PixelData=None)) == "dicom without pixel data"


def test_unsupported_transfer_syntax_is_named():
    jpeg = encapsulate([b"\xff\xd8\xff\xc3 lossless"])
    assert reason(dicom(RAMP, JPEGLosslessSV1, PixelData=jpeg)) == f"unsupported transfer syntax {JPEGLosslessSV1}"


def test_deflated_dicom_is_not_inflated():
    data = dicom(np.zeros((900, 900), np.uint8), DeflatedExplicitVRLittleEndian)
    assert len(data) < 10_000
    assert reason(data) == f"unsupported transfer syntax {DeflatedExplicitVRLittleEndian}"


def test_palette_dicom():
    assert reason(dicom(RAMP, PhotometricInterpretation="PALETTE COLOR")) == "unsupported dicom colour PALETTE COLOR"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"patient has a cough", "not an image (png, jpeg or dicom)"),
        (encoded(RAMP, "GIF"), "not an image (png, jpeg or dicom)"),
        (encoded(RAMP, "TIFF"), "not an image (png, jpeg or dicom)"),
        (encoded(np.full((8, 8), 77, np.uint8)), "no variation"),
        (dicom(np.full((8, 8), 77, np.uint16)), "no variation"),
        (png_that_claims(64, 64), "corrupt png"),
    ],
)
def test_what_is_no_image(data, expected):
    assert reason(data) == expected


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize(
    ("data", "expected"),
    [(encoded(NOISE), "corrupt png"), (encoded(NOISE, "JPEG"), "corrupt jpeg"), (dicom(NOISE), "corrupt dicom")],
    ids=["png", "jpeg", "dicom"],
)
def test_files_that_break_off_are_errors(data, expected, share):
    cut = data[: int(len(data) * share)]
    assert reason(cut) in (expected, "dicom without pixel data")


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(encoded(NOISE))
    data[data.index(b"IDAT") + 40] ^= 1
    assert reason(bytes(data)) == "corrupt png"


@pytest.mark.parametrize(
    "data",
    [encoded(NOISE), encoded(NOISE, "JPEG"), dicom(RAMP, WindowCenter=9, WindowWidth=9)],
    ids=["png", "jpeg", "dicom"],
)
def test_damaged_bytes_raise_nothing_else(data):
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 6):
            damaged[place] = random.integers(256)
        try:
            image = decode(bytes(damaged), max_pixels=LIMIT)
        except UnreadableImage:
            continue
        assert np.isfinite(image).all()


# Squares


def test_to_square_pads_with_black_and_keeps_the_mean():
    image = np.random.default_rng(0).random((128, 64), dtype=np.float32)
    square = to_square(image, 32, "pad")
    assert (square.shape, square.dtype) == ((32, 32), np.uint8)
    assert (square[:, :8] == 0).all()
    assert (square[:, 24:] == 0).all()
    expected = image.reshape(32, 4, 16, 4).mean(axis=(1, 3)) * 255
    np.testing.assert_allclose(square[:, 8:24], expected, atol=0.51)


def test_to_square_crops_the_middle():
    image = np.zeros((40, 100), np.float32)
    image[:, 30:70] = 0.5
    np.testing.assert_array_equal(to_square(image, 20, "crop"), np.full((20, 20), 128))


def test_to_square_enlarges_without_steps():
    square = to_square(np.linspace(0, 1, 8, dtype=np.float32)[None].repeat(8, 0), 64, "pad")
    assert np.abs(np.diff(square.astype(int), axis=1)).max() <= 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_to_square_takes_any_aspect_ratio(shape, fit):
    square = to_square(np.ones(shape, np.float32), 32, fit)
    assert square.shape == (32, 32)
    assert square.max() == 255


# Folders


def test_read_square(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "a.jpg").write_bytes(encoded(RAMP))  # a PNG, whatever its name says
    (tmp_path / "outside.png").write_bytes(encoded(RAMP))
    storage = Storage.of(str(tmp_path / "images"))
    square = read_square(storage, "deep/a.jpg", 20, "pad", LIMIT)
    np.testing.assert_array_equal(square[4:16], RAMP)
    for name, expected in {
        "../outside.png": "path leaves the folder",
        str(tmp_path / "outside.png"): "path leaves the folder",
        "": "path leaves the folder",
        "deep/b.png": "file not found",
        "deep/a.jpg/b.png": "file not found",
        "deep": "file not found",
        "x" * 3000: "file not found",
    }.items():
        with pytest.raises(UnreadableImage) as caught:
            read_square(storage, name, 20, "pad", LIMIT)
        assert caught.value.reason == expected, name


def test_a_file_too_long_for_its_pixels_is_not_read(tmp_path):
    with (tmp_path / "huge.dcm").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(UnreadableImage, match="file too long: 1099511627776 bytes"):
        read_square(Storage.of(str(tmp_path)), "huge.dcm", 32, "pad", LIMIT)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not there")
def test_real_images():
    names = sorted(path.name for path in REAL.iterdir())[::40]
    storage = Storage.of(str(REAL))
    for name in names:
        np.testing.assert_array_equal(
            read_square(storage, name, 64, "pad", LIMIT), np.asarray(Image.open(REAL / name).convert("L")), name
        )
