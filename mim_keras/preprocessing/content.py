"""Raw items to the inputs of the item encoder, and the inputs of a whole catalogue in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import EncoderConfig, from_mapping, to_mapping
from mim_keras.preprocessing.image import ImagePreprocessor
from mim_keras.preprocessing.text import TextPreprocessor

MAX_BATCH = 256  # items that an encoder gets at once
MAX_BATCH_TOKENS = 16_384
_SETTINGS = "preprocessor.json"
Content = dict[str, Any]


class ContentPreprocessor:
    """Encoded images, titles, texts and ready-made embeddings → the inputs of an `ItemEncoder`.

    Args:
        config: Of the encoder.
        image: Reads images.
        text: Reads texts.

    Example:
        >>> from mim_keras.config import preset
        >>> from mim_keras.preprocessing.content import ContentPreprocessor
        >>> preprocessor, _ = ContentPreprocessor.fit(preset("tiny").encoder, ["red mug", "blue lamp"])
        >>> content = preprocessor(image=[b""], title=["red mug"], text=[""])
        >>> content["image_mask"].numpy().tolist(), content["text_mask"].numpy().tolist()
        ([0.0], [1.0])
    """

    def __init__(self, config: EncoderConfig, image: ImagePreprocessor, text: TextPreprocessor) -> None:
        self.config, self.image, self.text = config, image, text

    @staticmethod
    def fit(config: EncoderConfig, texts: Sequence[str]) -> tuple[ContentPreprocessor, list[np.ndarray]]:
        """Fits the vocabularies to a catalogue's texts (see `join_title_and_text`).

        Returns:
            The preprocessor, and the tables of the LSA towers, for `ItemEncoder.from_settings`.
        """
        text, lsa_tables = TextPreprocessor.fit(config, texts)
        return ContentPreprocessor(config, ImagePreprocessor.from_settings(config.image), text), lsa_tables

    def __call__(self, image: Any, title: Any, text: Any, embeddings: Mapping[str, Any] | None = None) -> Content:
        """Turns raw content into the encoder's inputs.

        Args:
            image: Encoded images, strings [B]; "" for a missing one.
            title, text: Strings [B]; "" for a missing one.
            embeddings: Ready-made embeddings by name, float [B, dim]; zeros for a missing one.

        Raises:
            ValueError: lengths differ, or an embedding is missing or has another width.
        """
        config = self.config
        image, title, text = (tf.convert_to_tensor(values, tf.string) for values in (image, title, text))
        given = {name: tf.convert_to_tensor(values) for name, values in (embeddings or {}).items()}
        self._check(image, title, text, given)
        joined = join_title_and_text(title, text)
        content: Content = {**self.text(joined)}
        has_image, has_text = tf.strings.length(image) > 0, tf.strings.length(tf.strings.strip(joined)) > 0
        if config.image.enabled:
            content["image"] = self.image(image) / 255.0
        masks = {
            "image": has_image & config.image.enabled,
            "text": has_text & (config.text.enabled or config.lsa.enabled),
        }
        for tower in config.embeddings:
            values = tf.cast(given[tower.name], tf.float32)
            content[f"embedding_{tower.name}"] = values
            masks[tower.modality] |= tf.reduce_any(values != 0, axis=-1)
        return {**content, **{f"{modality}_mask": tf.cast(mask, tf.float32) for modality, mask in masks.items()}}

    def _check(self, image: tf.Tensor, title: tf.Tensor, text: tf.Tensor, embeddings: Mapping[str, tf.Tensor]) -> None:
        dims = {tower.name: tower.dim for tower in self.config.embeddings}
        if set(dims) - set(embeddings):
            raise ValueError(
                f"embeddings must have {', '.join(dims)}, as the encoder's settings do; received "
                f"{', '.join(embeddings) or 'none'}. Give each as float [B, dim]."
            )
        for name, dim in dims.items():
            if embeddings[name].shape.rank != 2 or embeddings[name].shape[1] not in (None, dim):
                raise ValueError(
                    f"embedding {name} must have shape (batch, {dim}); received {tuple(embeddings[name].shape)}. Its "
                    "width is set in encoder.embeddings."
                )
        values = {"image": image, "title": title, "text": text, **{name: embeddings[name] for name in dims}}
        lengths = {name: one.shape[0] for name, one in values.items() if one.shape.rank and one.shape[0] is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"content must have one length; received {lengths}. Give empty strings for what is missing."
            )

    def save_to_preset(self, folder: Path) -> None:
        """Writes settings and vocabularies."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"encoder": to_mapping(self.config), "image": self.image.to_plain()}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2))
        self.text.save_to_preset(folder)

    @staticmethod
    def from_preset(folder: Path) -> ContentPreprocessor:
        """The preprocessor that `save_to_preset` wrote.

        Raises:
            FileNotFoundError: the folder holds none.
        """
        folder = Path(folder)
        settings = json.loads((folder / _SETTINGS).read_text())
        config = from_mapping(EncoderConfig, settings["encoder"])
        image = ImagePreprocessor(**settings["image"])
        return ContentPreprocessor(config, image, TextPreprocessor.from_preset(folder, config))


def join_title_and_text(title: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
    """Titles and texts [B] as one string each: the title is the first line."""
    return tf.strings.join([tf.strings.regex_replace(title, r"[\r\n]+", " "), text], separator="\n")


def trim_to_longest(content: Content) -> Content:
    """Cuts the token columns to the longest text of the batch, since padding costs time."""
    if "token_mask" not in content:
        return content
    lengths = tf.reduce_sum(tf.cast(content["token_mask"], tf.int32), axis=1)
    longest = tf.maximum(1, tf.reduce_max(lengths))
    columns = ("token_ids", "token_mask")
    return {**content, **{name: content[name][:, :longest] for name in columns}}


class ContentDataset:
    """The preprocessed content of a catalogue, in memory, one row an item, from row 0.

    Images are held as uint8: a million items of 48 pixels take 7 GB.

    Args:
        preprocessor: Reads the columns.
        image, title, text: bytes [items].
        embeddings: Ready-made embeddings, float [items, dim] by name.
    """

    def __init__(
        self,
        preprocessor: ContentPreprocessor,
        image: np.ndarray,
        title: np.ndarray,
        text: np.ndarray,
        embeddings: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        batches: list[dict[str, np.ndarray]] = []
        read = tf.function(preprocessor, reduce_retracing=True)
        for begin in range(0, len(image), MAX_BATCH):
            rows = slice(begin, begin + MAX_BATCH)
            given = {name: tf.constant(values[rows], tf.float32) for name, values in (embeddings or {}).items()}
            content = read(tf.constant(image[rows]), tf.constant(title[rows]), tf.constant(text[rows]), given)
            batch = {name: value.numpy() for name, value in content.items()}
            if "image" in batch:
                batch["image"] = np.round(batch["image"] * 255).astype(np.uint8)
            batches.append(batch)
        self.columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def __len__(self) -> int:
        return len(self.columns["image_mask"])

    def gather(self, rows: Any) -> Content:
        """Content of rows, int [B], as tensors; usable inside `tf.data`."""
        content = {name: tf.gather(values, rows) for name, values in self.columns.items()}
        if "image" in content:
            content["image"] = tf.cast(content["image"], tf.float32) / 255.0
        return content

    def map(self, compute: Callable[[Content], Content], rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`compute` of the content of every row, or of these rows, as NumPy arrays in their order.

        Texts of similar length share a batch, and the batch size follows from their length: its memory grows with the
        square of their length.
        """
        order, batch = np.arange(len(self)) if rows is None else rows, MAX_BATCH
        if "token_mask" in self.columns:
            order = order[np.argsort(self.columns["token_mask"][order].sum(axis=1), kind="stable")]
            batch = max(1, min(batch, MAX_BATCH_TOKENS // self.columns["token_mask"].shape[1]))
        run = tf.function(lambda rows: compute(trim_to_longest(self.gather(rows))), reduce_retracing=True)
        return _map_batches(run, order, batch)

    def content_hashes(self) -> np.ndarray:
        """A hash of every row's content, 32 hexadecimal digits, S32 [rows]; equal contents have equal hashes."""
        columns = [np.ascontiguousarray(self.columns[name]) for name in sorted(self.columns)]

        def hash_of(row: int) -> bytes:
            digest = hashlib.blake2b(digest_size=16)
            for column in columns:
                digest.update(column[row].tobytes())
            return digest.hexdigest().encode()

        return np.array([hash_of(row) for row in range(len(self))], "S32")


def map_features(
    compute: Callable[[Content], Content], features: Mapping[str, np.ndarray], batch: int = 4096
) -> dict[str, np.ndarray]:
    """`compute` of precomputed tower features, [rows, ...] each, batch by batch, as NumPy arrays."""
    rows = np.arange(len(next(iter(features.values()))))
    return _map_batches(lambda rows: compute({n: v[rows.numpy()] for n, v in features.items()}), rows, batch)


def _map_batches(compute: Callable[[tf.Tensor], Content], order: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """`compute` of rows, called in this order; the results are in ascending order of rows."""
    parts = [compute(tf.constant(order[begin : begin + batch])) for begin in range(0, len(order), batch)]
    back = np.argsort(order)
    return {name: np.concatenate([part[name].numpy() for part in parts])[back] for name in parts[0]}
