"""One normaliser of pictures: what looks the same in a viewer is the same to an encoder.

The catalogue, the events of new items and the clients call it, so that one picture has one content hash and one
embedding wherever it comes from.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

MAX_BYTES, MAX_PIXELS = 64 << 20, 64_000_000
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_ORIENTATION = 274  # EXIF
Image.init()  # registers all formats


class ImageError(ValueError):
    """A picture cannot be read.  The message says why."""


def normalize_image(data: bytes) -> bytes:
    """A picture as an upright RGB or grey JPEG or PNG of 8 bits, without transparency.

    A JPEG or PNG that is so already stays as it is, byte for byte.  Of any other picture the first frame is taken,
    turned upright, scaled to 8 bits, laid on white where it is transparent, and written as an RGB PNG.

    Args:
        data: Encoded, in one of `FORMATS`.

    Raises:
        ImageError: it is no picture, a broken one, or larger than `MAX_BYTES` or `MAX_PIXELS`.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> from serving.representation_center.images import normalize_image
        >>> buffer = io.BytesIO()
        >>> Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(buffer, "PNG")
        >>> Image.open(io.BytesIO(normalize_image(buffer.getvalue()))).getpixel((0, 0))
        (255, 255, 255)
    """
    if len(data) > MAX_BYTES:
        raise ImageError(f"a picture has at most {MAX_BYTES:,} bytes; received {len(data):,}. Shrink it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit of pixels comes first
            return _normalize(data)
    except ImageError:
        raise
    except Exception as error:  # the decoders of some formats raise whatever they like
        text = str(error).split(" <_io.BytesIO")[0].splitlines()  # Pillow names the stream, with its address
        raise ImageError(text[0] if text else type(error).__name__) from error


def _normalize(data: bytes) -> bytes:
    picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"a picture has at most {MAX_PIXELS:,} pixels; received {width} x {height}. Shrink it")
    picture.load()
    upright = picture.getexif().get(_ORIENTATION, 1) in (0, 1)
    opaque = "transparency" not in picture.info
    if picture.format in ("JPEG", "PNG") and picture.mode in ("RGB", "L") and upright and opaque:
        return data
    picture = _eight_bits(ImageOps.exif_transpose(picture))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts off what is above 255 where it converts a deeper picture."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    values = np.nan_to_num(np.asarray(picture, np.float64), posinf=0, neginf=0)
    if picture.mode == "F":
        largest = 1.0 if values.max(initial=0) <= 1 else 255.0 if values.max() <= 255 else 65_535.0
    else:
        largest = 255.0 if picture.mode == "I" and values.max(initial=0) <= 255 else 65_535.0
    return Image.fromarray(np.clip(values / largest * 255 + 0.5, 0, 255).astype(np.uint8))
