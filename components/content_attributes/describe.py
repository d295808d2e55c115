"""Pictures and texts as numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

SIDE, COLOR_BINS = 24, 4  # pixels a side, and bins of each of three colours, that describe a picture
TEXT_DIM = 32
_LETTERS = re.compile(r"[^\W\d_]")
_WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # Thai, kana, Han
# Words of two letters or more, with the vowel signs of Arabic and of the scripts of India.
TOKEN = r"[^\W_](?:\w|[\u0300-\u036f\u064b-\u065f\u0900-\u0d7f])+"


def describe_images(images: list[bytes]) -> np.ndarray:
    """Square roots of the shares of a picture's colours, float32 [n, bins]; NaN where it cannot be read."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_color_shares, images))
    return np.array(found, np.float32).reshape(len(images), COLOR_BINS**3)


def _color_shares(image: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((SIDE, SIDE)), np.int64) * COLOR_BINS // 256
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return np.full(COLOR_BINS**3, np.nan)
    codes = (pixels @ np.array([COLOR_BINS**2, COLOR_BINS, 1])).ravel()
    shares: np.ndarray = np.sqrt(np.bincount(codes, minlength=COLOR_BINS**3) / codes.size)
    return shares


def has_blanks(texts: list[str]) -> bool:
    """Whether these texts divide words by blanks, as Chinese, Japanese and Thai do not."""
    letters = sum(len(_LETTERS.findall(text)) for text in texts)
    return sum(len(_WITHOUT_BLANKS.findall(text)) for text in texts) < 0.3 * max(letters, 1)


def describe_texts(texts: list[str]) -> Callable[[list[str]], np.ndarray] | None:
    """Latent semantic analysis of words, or of characters where a language writes no blanks: zeros for a text in which
    nothing is known; None where the texts share nothing."""
    if len(texts) < 2:
        return None
    options = {"ngram_range": (1, 2), "min_df": 2, "max_features": 50_000, "sublinear_tf": True}
    words = TfidfVectorizer(analyzer="word" if has_blanks(texts) else "char", token_pattern=TOKEN, **options)
    try:
        counted = words.fit_transform(texts)
    except ValueError:  # nothing occurs in two texts
        return None
    dim = min(TEXT_DIM, counted.shape[1] - 1, len(texts) - 1)
    if dim < 1:
        return None
    reduce = make_pipeline(TruncatedSVD(dim, random_state=0), Normalizer()).fit(counted)

    def describe(some: list[str]) -> np.ndarray:
        counts = words.transform(some)
        found = np.asarray(reduce.transform(counts), np.float32)
        return np.where((counts.getnnz(axis=1) > 0)[:, None], found, 0.0)

    return describe
