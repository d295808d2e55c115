"""Draws the pictures of the sample shop: a motif of some shape and colour, a pattern, a texture."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (205, 45, 45),
    "orange": (235, 130, 35),
    "yellow": (235, 210, 60),
    "green": (60, 150, 70),
    "teal": (40, 150, 150),
    "blue": (50, 90, 200),
    "purple": (125, 65, 165),
    "pink": (235, 130, 175),
    "brown": (120, 80, 50),
    "black": (40, 40, 45),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "hexagon", "diamond", "crescent")
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "ringed")
TEXTURES = ("smooth", "grainy", "woven", "marbled")

_CANVAS = 128  # pictures are drawn at this size and scaled down, so that edges are smooth


def _polygon(corners: int, inner: float, turn: float) -> list[tuple[float, float]]:
    steps = corners * 2 if inner < 1 else corners
    points = []
    for k in range(steps):
        radius = 1.0 if inner == 1 or k % 2 == 0 else inner
        angle = turn - math.pi / 2 + 2 * math.pi * k / steps
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _shape_mask(shape: str, centre: tuple[float, float], radius: float, turn: float) -> Image.Image:
    mask = Image.new("L", (_CANVAS, _CANVAS), 0)
    draw = ImageDraw.Draw(mask)
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape in ("circle", "crescent"):
        draw.ellipse(box, fill=255)
        if shape == "crescent":
            shift = radius * 0.55
            draw.ellipse((box[0] + shift, box[1] - shift / 3, box[2] + shift, box[3] - shift / 3), fill=0)
        return mask
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        px = 16 * np.sin(t) ** 3
        py = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        points = [(float(a) / 17, float(b) / 17) for a, b in zip(px, py, strict=True)]
    else:
        corners, inner, offset = {
            "square": (4, 1.0, math.pi / 4),
            "triangle": (3, 1.0, 0.0),
            "star": (5, 0.42, 0.0),
            "hexagon": (6, 1.0, 0.0),
            "diamond": (4, 1.0, 0.0),
        }[shape]
        points = _polygon(corners, inner, offset + turn)
        if shape == "diamond":
            points = [(a * 0.65, b) for a, b in points]
    draw.polygon([(x + radius * a, y + radius * b) for a, b in points], fill=255)
    return mask


def _pattern_mask(pattern: str, phase: float) -> np.ndarray:
    rows, columns = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    period = 18.0
    if pattern == "plain":
        return np.zeros((_CANVAS, _CANVAS), bool)
    if pattern == "striped":
        return (columns + phase) % period < period * 0.4
    if pattern == "dotted":
        a, b = (columns + phase) % period - period / 2, (rows + phase) % period - period / 2
        return a * a + b * b < (period * 0.28) ** 2
    if pattern == "checked":
        return ((columns + phase) % period < period / 2) ^ ((rows + phase) % period < period / 2)
    if pattern == "zigzag":
        return (rows + np.abs((columns + phase) % period - period / 2)) % period < period * 0.4
    distance = np.hypot(columns - _CANVAS / 2, rows - _CANVAS / 2)  # ringed
    return (distance + phase) % period < period * 0.4


def _texture(texture: str, rng: np.random.Generator) -> np.ndarray:
    if texture == "smooth":
        return np.zeros((_CANVAS, _CANVAS), np.float32)
    if texture == "grainy":
        return rng.normal(0, 26, (_CANVAS, _CANVAS)).astype(np.float32)
    rows, columns = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    if texture == "woven":
        return 22 * np.sign(np.sin(rows * 1.1) * np.sin(columns * 1.1)).astype(np.float32)
    a, b, c = rng.uniform(0, 6, 3)  # marbled
    return (26 * np.sin(columns / 9 + 3 * np.sin(rows / 17 + a) + b) * np.cos(rows / 23 + c)).astype(np.float32)


def draw_picture(
    rng: np.random.Generator, colour: str, shape: str, pattern: str, texture: str, size: int = 64, kind: str = "PNG"
) -> bytes:
    """One picture, encoded as `kind` (PNG or JPEG), `size` pixels a side; placement and light vary with `rng`."""
    base = np.array(COLOURS[colour], np.float32) + rng.normal(0, 10, 3)
    background = np.array([232, 230, 224], np.float32) + rng.normal(0, 8, 3)
    centre = (_CANVAS / 2 + rng.uniform(-9, 9), _CANVAS / 2 + rng.uniform(-9, 9))
    mask = np.asarray(_shape_mask(shape, centre, rng.uniform(40, 54), rng.uniform(-0.25, 0.25))) > 127
    inside = np.where(_pattern_mask(pattern, rng.uniform(0, 18))[..., None], base * 0.45 + 110, base)
    inside = inside + _texture(texture, rng)[..., None]
    picture = np.where(mask[..., None], inside, background) * rng.uniform(0.9, 1.08)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return buffer.getvalue()
