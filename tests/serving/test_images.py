"""What looks the same in a viewer is the same picture, however it is encoded."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.representation_center import images
from serving.representation_center.images import ImageError, normalize_image

SIZE = 48


def drawing() -> Image.Image:
    """A picture of few sharp edges, which lossy formats keep."""
    x, y = np.meshgrid(np.linspace(0, 255, SIZE), np.linspace(0, 255, SIZE))
    return Image.fromarray(np.stack([x, y, 255 - (x + y) / 2], -1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    one, other = first.ravel() - 128, second.ravel() - 128
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


PLAIN = drawing()
KINDS = {
    "PNG": {},
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90},
    "TIFF": {},
    "GIF": {},
    "BMP": {},
}
MODES = {
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "I;16", "F", "1"),
    "GIF": ("P", "L", "1"),
    "BMP": ("RGB", "L", "P", "1"),
}


def in_mode(mode: str) -> tuple[Image.Image, Image.Image]:
    """(The drawing in a mode, what a viewer shows of it)."""
    grey = PLAIN.convert("L")
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey, np.uint16) * 257), grey
    if mode == "F":
        return Image.fromarray(np.asarray(grey, np.float32)), grey
    picture = PLAIN.convert(mode)
    return picture, PLAIN if mode in ("RGB", "RGBA", "CMYK") else picture.convert("RGB")


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in KINDS for mode in MODES[kind]])
def test_every_format_and_mode_is_what_a_viewer_shows(kind: str, mode: str) -> None:
    picture, shown = in_mode(mode)
    found = normalize_image(encoded(picture, kind, **KINDS[kind]))
    canonical = Image.open(io.BytesIO(found))
    assert canonical.format in ("JPEG", "PNG")
    assert canonical.mode in ("RGB", "L")
    assert cosine(pixels(found), np.asarray(shown.convert("RGB"), np.float64)) > 0.99


@pytest.mark.parametrize("hidden", ["black", "white", "magenta"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white_whatever_hides_there(kind: str, hidden: str) -> None:
    alpha = Image.new("L", PLAIN.size, 0)
    alpha.paste(255, (10, 10, 40, 40))
    cut_out = Image.composite(PLAIN, Image.new("RGB", PLAIN.size, hidden), alpha)
    cut_out.putalpha(alpha)
    shown = Image.composite(PLAIN, Image.new("RGB", PLAIN.size, "white"), alpha)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(normalize_image(encoded(cut_out, kind, **options)))
    np.testing.assert_array_equal(found, np.asarray(shown, np.float64))


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        found = pixels(normalize_image(encoded(picture, kind, transparency=0)))
        assert found[0, 0].tolist() == [255, 255, 255]
        assert found[1, 1].tolist() == [0, 255, 0]


@pytest.mark.parametrize(("kind", "orientation"), list(itertools.product(["JPEG", "PNG", "WEBP"], range(1, 9))))
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that each orientation asks to undo
    stored = PLAIN.transpose(Image.Transpose(back[orientation])) if orientation > 1 else PLAIN
    exif = Image.Exif()
    exif[274] = orientation
    found = normalize_image(encoded(stored, kind, exif=exif, **({"quality": 95} if kind != "PNG" else {})))
    assert cosine(pixels(found), np.asarray(PLAIN, np.float64)) > 0.99
    assert Image.open(io.BytesIO(found)).getexif().get(274, 1) == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    others = [Image.new("RGB", PLAIN.size, color) for color in ("black", "white")]
    found = normalize_image(encoded(PLAIN, kind, save_all=True, append_images=others))
    assert cosine(pixels(found), np.asarray(PLAIN, np.float64)) > 0.98


def test_a_canonical_picture_stays_byte_for_byte() -> None:
    for picture, kind in itertools.product((PLAIN, PLAIN.convert("L")), ("JPEG", "PNG")):
        data = encoded(picture, kind)
        assert normalize_image(data) == data
    other = encoded(PLAIN, "WEBP")
    assert normalize_image(other) == normalize_image(other)
    assert normalize_image(normalize_image(other)) == normalize_image(other)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot identify image file"),
        (b"<html>not found</html>", "cannot identify image file"),
        (encoded(PLAIN, "PNG")[:-100], "truncated|broken"),
        (encoded(PLAIN, "JPEG")[:-100], "truncated|broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
    ],
)
def test_what_is_no_picture_says_so(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        normalize_image(data)


def test_limits_come_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="at most 64,000,000 pixels; received 9000 x 9000"):
        normalize_image(encoded(Image.new("1", (9_000, 9_000)), "PNG"))
    with pytest.raises(ImageError, match="exceeds limit"):
        normalize_image(encoded(Image.new("1", (30_000, 30_000)), "PNG"))
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match="at most 100 bytes"):
        normalize_image(encoded(PLAIN, "PNG"))
