"""What `ContentClusters` does."""

from __future__ import annotations

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
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.catalogue_gen.executor import SPLITS
from components.examples import close_splits, declare_splits, decode
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
        assign = fit(_sample(f"{folder}/Split-train/*"), exec_properties["clusters"])
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


def fit(content: Content, clusters: int) -> dict[str, Callable[[Content], list[bytes]]]:
    """Functions from a batch of content to clusters, by attribute; b"" where there is nothing to describe.

    Args:
        content: `title`, `text` and `image` of the items to fit to.
        clusters: Of each kind, at most.
    """
    images = describe_images(content["image"])
    colors = _kmeans(images[~np.isnan(images[:, 0])], clusters)
    texts = [text for text in join(content) if text.strip()]
    language = _language(texts)
    meanings = _kmeans(language(texts), clusters) if language else None

    def of_images(batch: Content) -> list[bytes]:
        described = describe_images(batch["image"])
        known = ~np.isnan(described[:, 0])
        return _named("look", known, colors.predict(described[known]) if colors and known.any() else None)

    def of_texts(batch: Content) -> list[bytes]:
        joined = join(batch)
        known = np.array([bool(text.strip()) for text in joined], bool)
        if language is None or meanings is None or not known.any():
            return _named("topic", known, None)
        return _named("topic", known, meanings.predict(language([text for text in joined if text.strip()])))

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
    except (OSError, ValueError, SyntaxError):
        return np.full(COLOR_BINS**3, np.nan)
    codes = (pixels @ np.array([COLOR_BINS**2, COLOR_BINS, 1])).ravel()
    shares: np.ndarray = np.sqrt(np.bincount(codes, minlength=COLOR_BINS**3) / codes.size)
    return shares


def join(content: Content) -> list[str]:
    """Titles and texts as one text each."""
    pairs = zip(content["title"], content["text"], strict=True)
    return [f"{title.decode()} {text.decode()}" for title, text in pairs]


def _language(texts: list[str]) -> Callable[[list[str]], np.ndarray] | None:
    """Latent semantic analysis of words; None where the texts share none."""
    if len(texts) < 2:
        return None
    words = TfidfVectorizer(min_df=2, ngram_range=(1, 2), max_features=50_000, sublinear_tf=True)
    try:
        counted = words.fit_transform(texts)
    except ValueError:  # no word occurs in two texts
        return None
    dim = min(TEXT_DIM, counted.shape[1] - 1, len(texts) - 1)
    if dim < 1:
        return None
    reduce = make_pipeline(TruncatedSVD(dim, random_state=0), Normalizer()).fit(counted)
    return lambda some: np.asarray(reduce.transform(words.transform(some)), np.float32)


def _kmeans(points: np.ndarray, clusters: int) -> MiniBatchKMeans | None:
    distinct = len(np.unique(points.round(4), axis=0)) if len(points) else 0
    if distinct < 2:
        return None
    count = min(clusters, distinct)
    return MiniBatchKMeans(count, n_init=4, batch_size=4_096, random_state=0).fit(points)


def _named(kind: str, known: np.ndarray, codes: np.ndarray | None) -> list[bytes]:
    names = [b""] * len(known)
    if codes is not None:
        for row, code in zip(np.flatnonzero(known), codes, strict=True):
            names[row] = f"{kind} {code}".encode()
    return names


def _sample(pattern: str) -> Content:
    """Content of `FITTED` items at most, in an order that does not depend on the files'."""
    kept: list[tuple[bytes, ...]] = []
    for file in sorted(tf.io.gfile.glob(pattern)):
        for _, content in _batches(file, ("item_id", *CONTENT)):
            kept += zip(*content.values(), strict=True)
    order = np.random.default_rng(0).permutation(len(kept))[:FITTED]
    kept.sort()
    columns = list(zip(*(kept[index] for index in sorted(order)), strict=True)) or [()] * (1 + len(CONTENT))
    return {name: list(values) for name, values in zip(CONTENT, columns[1:], strict=True)}


def _batches(file: str, names: tuple[str, ...] = CONTENT) -> Iterator[tuple[list[bytes], Content]]:
    decoder = ExamplesToRecordBatchDecoder()
    for batch in tf.data.TFRecordDataset(file, "GZIP").batch(BATCH).as_numpy_iterator():
        rows = list(batch)
        columns = decode(decoder, rows, only=names)
        missing = [b""] * len(rows)
        yield rows, {name: columns[name].to_pylist() if name in columns else missing for name in names}


def _with(row: bytes, values: dict[str, bytes]) -> bytes:
    example = tf.train.Example.FromString(row)
    for name, value in values.items():
        example.features.feature[name].bytes_list.value[:] = [value]
    serialised: bytes = example.SerializeToString()
    return serialised
