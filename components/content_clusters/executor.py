"""What `ContentClusters` does."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.catalogue_gen.executor import SPLITS
from components.examples import close_splits, declare_splits, read_files
from components.item_attributes import CLUSTERS

CONTENT = ("title", "text", "image")
FITTED = 20_000  # items that clusters are fitted to, at most
SIDE, COLOR_BINS = 24, 4  # pixels a side, and bins of each of three colours, that describe a picture
TEXT_DIM = 32
BATCH = 1_024

Content = dict[str, list[bytes]]  # columns of a batch of items


class Executor(base_executor.BaseExecutor):
    """Fits clusters to the training split and writes every item with its own."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        folder = str(artifact_utils.get_single_uri(input_dict["items"]))
        made = artifact_utils.get_single_instance(output_dict["clustered"])
        declare_splits(made, SPLITS)
        assign = fit(*_sample(f"{folder}/Split-train/*"), exec_properties["clusters"])
        for split in SPLITS:
            target = artifact_utils.get_split_uri([made], split)
            tf.io.gfile.makedirs(target)
            for file in sorted(tf.io.gfile.glob(f"{folder}/Split-{split}/*")):
                options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
                with tf.io.TFRecordWriter(f"{target}/{file.rpartition('/')[2]}", options) as writer:
                    for rows, content in _batches(file):
                        clusters = {name: one(content) for name, one in assign.items()}
                        for index, row in enumerate(rows):
                            writer.write(_with(row, {name: values[index] for name, values in clusters.items()}))
        close_splits(made)


def fit(texts: list[str], images: np.ndarray, clusters: int) -> dict[str, Callable[[Content], list[bytes]]]:
    """Functions from a batch of content to clusters, by attribute; b"" where there is nothing to describe.

    A cluster's name has a digest of all clusters of its kind: after other items were fitted, no name is one of before,
    and a warm start carries nothing from one cluster to another.

    Args:
        texts: As of `join`.
        images: As of `describe_images`.
        clusters: Of each kind, at most.
    """
    colors = _kmeans(images[~np.isnan(images).any(axis=1)], clusters)
    language = _language([text for text in texts if text.strip()])
    described = language(texts) if language else np.zeros((0, 1), np.float32)
    topics = _kmeans(described[described.any(axis=1)], clusters)

    def of_images(batch: Content) -> list[bytes]:
        found = describe_images(batch["image"])
        return _names("look", colors, found, ~np.isnan(found).any(axis=1))

    def of_texts(batch: Content) -> list[bytes]:
        joined = join(batch)
        found = language(joined) if language and joined else np.zeros((len(joined), 1), np.float32)
        return _names("topic", topics, found, np.any(found != 0, axis=1))

    return dict(zip(CLUSTERS, (of_images, of_texts), strict=True))


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


def join(content: Content) -> list[str]:
    """Titles and texts as one text each."""
    pairs = zip(content["title"], content["text"], strict=True)
    return [f"{title.decode()} {text.decode()}" for title, text in pairs]


def _language(texts: list[str]) -> Callable[[list[str]], np.ndarray] | None:
    """Latent semantic analysis of words, or of characters where a language writes no blanks: zeros for a text in which
    nothing is known; None where the texts share nothing."""
    if len(texts) < 2:
        return None
    has_blanks = np.mean([" " in text.strip() or text.isascii() for text in texts]) > 0.5
    options = {"ngram_range": (1, 2), "min_df": 2, "max_features": 50_000, "sublinear_tf": True}
    words = TfidfVectorizer(analyzer="word" if has_blanks else "char", **options)
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


def _kmeans(points: np.ndarray, clusters: int) -> MiniBatchKMeans | None:
    distinct = len(np.unique(points.round(4), axis=0)) if len(points) else 0
    if distinct < 2:
        return None
    count = min(clusters, distinct)
    return MiniBatchKMeans(count, n_init=4, batch_size=4_096, random_state=0).fit(points)


def _names(kind: str, model: MiniBatchKMeans | None, points: np.ndarray, known: np.ndarray) -> list[bytes]:
    names = [b""] * len(known)
    if model is not None and known.any():
        fitted = hashlib.sha256(model.cluster_centers_.round(4).tobytes()).hexdigest()[:6]
        for row, code in zip(np.flatnonzero(known), model.predict(points[known]), strict=True):
            names[row] = f"{kind} {code} of {fitted}".encode()
    return names


def _sample(pattern: str) -> tuple[list[str], np.ndarray]:
    """Texts and described pictures of `FITTED` items at most, chosen and sorted by their ids."""
    files = sorted(tf.io.gfile.glob(pattern))
    ids = [one for file in files for _, content in _batches(file, ("item_id",)) for one in content["item_id"]]
    chosen = set(sorted(ids, key=lambda one: hashlib.blake2b(one, digest_size=8).digest())[:FITTED])
    found: list[tuple[bytes, str, np.ndarray]] = []
    for file in files:
        for _, content in _batches(file, ("item_id", *CONTENT)):
            rows = [row for row, one in enumerate(content["item_id"]) if one in chosen]
            kept = {name: [values[row] for row in rows] for name, values in content.items()}
            found += zip(kept["item_id"], join(kept), describe_images(kept["image"]), strict=True)
    found.sort(key=lambda one: one[0])
    images = np.array([image for _, _, image in found], np.float32).reshape(len(found), COLOR_BINS**3)
    return [text for _, text, _ in found], images


def _batches(file: str, names: tuple[str, ...] = CONTENT) -> Iterator[tuple[list[bytes], Content]]:
    for rows, columns in read_files([file], only=names, batch_rows=BATCH):
        missing = [b""] * len(rows)
        yield rows, {name: columns[name].to_pylist() if name in columns else missing for name in names}


def _with(row: bytes, values: dict[str, bytes]) -> bytes:
    example = tf.train.Example.FromString(row)
    for name, value in values.items():
        example.features.feature[name].bytes_list.value[:] = [value]
    serialised: bytes = example.SerializeToString()
    return serialised
