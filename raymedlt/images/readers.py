"""Chest X-ray files as arrays: PNG (8 and 16 bit), JPEG and DICOM, recognised by content, never by name.

Files come from anywhere, so nothing here trusts them: the size is known and checked before pixels are unpacked, a file
that breaks off is an error and not half an image, and every failure is an `UnreadableImage` with a short reason.

The pixel values that come out are in [0, 1], and 0 is what the X-ray shows black (air):

* 8-bit PNG and JPEG: 255 is 1. Colour is reduced to luminance (ITU-R BT.601), transparency is ignored; the 16-bit
  colour PNGs that exist are read with 8 bits. JPEG follows its EXIF orientation.
* 16-bit PNG: 1 is the largest value of the smallest of 8, 10, 12, 14 and 16 bits that holds the image. Such files
  mostly carry 10 to 14 bits of a detector, and nothing in them says how many.
* DICOM: stored values, then the modality LUT or rescale slope and intercept, then the first VOI LUT, else the first
  window, else the range of the image's own values; MONOCHROME1 is inverted; padding is 0. PS3.3, C.11.1 and C.11.2.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi, get_decoder, pixel_array
from pydicom.uid import JPEG2000 as JPEG2000Lossy
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from raymedlt.errors import InputError
from raymedlt.storage import Storage

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
DICOM_PREAMBLE, DICOM_MARK = 128, b"DICM"

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""What a 16-bit PNG may carry."""

_BYTES_PER_PIXEL, _HEADER_BYTES = 8, 16 * 2**20  # a longer file is refused before it is read
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_BY_PILLOW = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000Lossless, JPEG2000Lossy)


class UnreadableImage(ValueError):
    """A file that gives no image. `reason` is short and holds nothing from inside the file but numbers and codes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_square(
    storage: Storage, name: str, size: int, fit: Literal["pad", "crop"], max_pixels: int
) -> NDArray[np.uint8]:
    """The image file `name` of `storage` as `to_square` makes it: [size, size], uint8.

    Raises:
        UnreadableImage: the name leaves the folder, there is no such file, or it gives no image.
        OSError: the disk or the network fails (nothing is wrong with the image).
    """
    return to_square(decode(read_file(storage, name, max_pixels), max_pixels=max_pixels), size, fit)


def read_file(storage: Storage, name: str, max_pixels: int) -> bytes:
    """The bytes of the image file `name`; a file too long for an image of `max_pixels` isn't read.

    Raises:
        UnreadableImage, OSError: as `read_square`.
    """
    try:
        with storage.open_input(name) as file:
            length = file.size()
            if length > max_pixels * _BYTES_PER_PIXEL + _HEADER_BYTES:
                raise UnreadableImage(f"file too long: {length} bytes")
            return bytes(file.read())
    except InputError:
        raise UnreadableImage("path leaves the folder") from None
    except PermissionError:
        raise UnreadableImage("file cannot be opened") from None
    except OSError as error:
        if error.errno in _NO_SUCH_FILE or storage.size(name) is None:  # pyarrow gives no number for a folder
            raise UnreadableImage("file not found") from None
        raise


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.float32]:
    """The image in `data`: [H, W], float32 in [0, 1], 0 is black. The module's docstring says how values are scaled.

    Args:
        data: a whole PNG, JPEG or DICOM file.
        max_pixels: an image with more (DICOM: over all frames) is refused before its pixels are unpacked.

    Raises:
        UnreadableImage: no image, a damaged one, too many pixels, more than one frame, a compression that no installed
            package reads, or an image of one single value.
    """
    if not data:
        raise UnreadableImage("empty file")
    if data.startswith(PNG_START):
        image = _guarded(_decode_pillow, data, max_pixels, "png")
    elif data.startswith(JPEG_START):
        image = _guarded(_decode_pillow, data, max_pixels, "jpeg")
    elif data[DICOM_PREAMBLE:].startswith(DICOM_MARK):
        image = _guarded(_decode_dicom, data, max_pixels, "dicom")
    else:
        raise UnreadableImage("not an image (png, jpeg or dicom)")
    if not np.isfinite(image).all():
        raise UnreadableImage("values that are no numbers")
    if image.min() == image.max():
        raise UnreadableImage("no variation")
    return image


def to_square(image: NDArray[np.float32], size: int, fit: Literal["pad", "crop"]) -> NDArray[np.uint8]:
    """`image` as a square: [size, size], uint8 (255 is 1). The aspect ratio stays.

    pad: the longer side becomes `size`, black (0) fills the rest on both sides. crop: the middle square of the image.
    Shrinking averages over areas (Pillow's BOX), which keeps the mean; enlarging is bilinear.

    Args:
        image: [H, W], float32 in [0, 1], any aspect ratio.
    """
    height, width = image.shape
    longer, shorter = max(height, width), min(height, width)
    reference = longer if fit == "pad" else shorter
    resampling = Image.Resampling.BOX if reference >= size else Image.Resampling.BILINEAR
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    if fit == "crop":
        left, top = (width - shorter) / 2, (height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        return _bytes_of(np.asarray(picture.resize((size, size), resampling, box=box)))
    new_width, new_height = (max(1, round(side * size / longer)) for side in (width, height))
    square = np.zeros((size, size), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    small = np.asarray(picture.resize((new_width, new_height), resampling))
    square[top : top + new_height, left : left + new_width] = _bytes_of(small)
    return square


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Clipped to [0, 1]."""
    clipped: NDArray[np.float32] = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return clipped


def _bytes_of(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (_unit(image) * 255 + 0.5).astype(np.uint8)


def _guarded(
    decoder: Callable[[bytes, int], NDArray[np.float32]], data: bytes, max_pixels: int, kind: str
) -> NDArray[np.float32]:
    """`decoder(data, max_pixels)`, whatever the libraries raise on damaged bytes turned into one reason."""
    try:
        return decoder(data, max_pixels)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage("too many pixels") from None
    except MemoryError:
        raise
    except Exception:  # a parser of foreign bytes raises nearly anything: struct.error, KeyError, SyntaxError, ...
        raise UnreadableImage(f"corrupt {kind}") from None


def _check_size(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise UnreadableImage(f"too many pixels: {pixels}")


# PNG and JPEG


def _decode_pillow(data: bytes, max_pixels: int) -> NDArray[np.float32]:
    formats = ("PNG",) if data.startswith(PNG_START) else ("JPEG",)
    with Image.open(io.BytesIO(data), formats=formats) as picture:  # reads the header only
        _check_size(math.prod(picture.size), max_pixels)
        if picture.format == "PNG":
            picture.verify()  # checksums of all chunks; decoding alone overlooks them, and a missing end
    with Image.open(io.BytesIO(data), formats=formats) as picture:
        picture.load()
        return gray(picture if picture.format == "PNG" else ImageOps.exif_transpose(picture))


def gray(picture: Image.Image) -> NDArray[np.float32]:
    """A Pillow image as [H, W], float32 in [0, 1]. Raises UnreadableImage: a pixel mode that no file here gives."""
    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(picture)
        largest = int(values.max())
        bits = next((bits for bits in BIT_DEPTHS if largest < 2**bits), BIT_DEPTHS[-1])
        return values.astype(np.float32) / np.float32(2**bits - 1)
    if picture.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImage(f"unsupported pixel mode {picture.mode}")
    if picture.mode in ("P", "PA", "CMYK"):
        picture = picture.convert("RGB")
    return np.asarray(picture.convert("L")).astype(np.float32) / np.float32(255)


# DICOM


def _decode_dicom(data: bytes, max_pixels: int) -> NDArray[np.float32]:
    # A value that breaks its rules would be quoted in a warning, and it may be a name.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    syntax = _transfer_syntax(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableImage("dicom without pixel data")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    _check_size(rows * columns * max(frames, 1), max_pixels)
    if frames != 1:
        raise UnreadableImage(f"multi-frame dicom: {frames} frames")
    colour = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel", 1)) == 1 and colour not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage(f"unsupported dicom colour {colour[:20]}")
    if syntax in _BY_PILLOW:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            if picture.size != (columns, rows):  # the header of the stream could promise far more than the dataset's
                raise UnreadableImage("corrupt dicom")
    stored = pixel_array(dataset, index=0)
    if stored.ndim == 3:
        full = 2 ** int(dataset.BitsStored) - 1
        luminance = stored.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / full
        return _unit(luminance)
    image = _presented(stored, dataset)
    if colour == "MONOCHROME1":
        image = 1 - image
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        image[stored == int(padding)] = 0
    return image


def _transfer_syntax(data: bytes) -> UID:
    """The file's transfer syntax, refused where nothing here reads it.

    Only the file's meta group is read: it is never compressed, whereas pydicom inflates the rest of a deflated file
    whatever its size.
    """
    body = io.BytesIO(data[DICOM_PREAMBLE + len(DICOM_MARK) :])
    meta = pydicom.filereader.read_dataset(
        body, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag.group != 2
    )
    syntax = UID(str(meta.TransferSyntaxUID))
    try:
        readable = syntax != DeflatedExplicitVRLittleEndian and get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    if not readable:
        raise UnreadableImage(f"unsupported transfer syntax {str(syntax)[:64]}")
    return syntax


def _presented(stored: NDArray[np.generic], dataset: pydicom.Dataset) -> NDArray[np.float32]:
    """[H, W] in [0, 1] as the dataset wants its stored values shown, before a MONOCHROME1 is inverted."""
    values = stored.astype(np.float32)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if dataset.get("ModalityLUTSequence"):
        values = apply_modality_lut(stored, dataset).astype(np.float32)
    elif slope is not None and intercept is not None:
        values = values * np.float32(slope) + np.float32(intercept)
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = apply_voi(np.rint(values).astype(np.int32), dataset).astype(np.float32) / np.float32(2**depth - 1)
    elif (window := _first_window(dataset)) is not None:
        shown = _windowed(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR").upper())
    else:
        padding = dataset.get("PixelPaddingValue")
        own = values if padding is None else values[stored != int(padding)]
        low, high = (own.min(), own.max()) if own.size else (np.float32(0), np.float32(0))
        shown = (values - low) / (high - low if high > low else np.float32(1))
    return _unit(shown)


def _first_window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width; a width that isn't positive counts as none."""
    found = []
    for name in ("WindowCenter", "WindowWidth"):
        value = dataset.get(name)
        if value is None or value == "":
            return None
        found.append(float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value))
    centre, width = found
    return (centre, width) if width > 0 and math.isfinite(centre) else None


def _windowed(values: NDArray[np.float32], centre: float, width: float, function: str) -> NDArray[np.float32]:
    """PS3.3, C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT), before clipping."""
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - centre) / width, -80, 80)
        share: NDArray[np.float32] = (1 / (1 + np.exp(exponent))).astype(np.float32)
        return share
    if function == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).astype(np.float32)
    if width <= 1:  # a threshold
        return (values > centre - 0.5).astype(np.float32)
    return ((values - (centre - 0.5)) / (width - 1) + 0.5).astype(np.float32)
