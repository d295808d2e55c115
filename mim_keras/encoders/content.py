"""Raw items → what the item encoder reads; the same TensorFlow operations in training and in serving."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import EncoderConfig
from mim_keras.encoders.item_encoder import Content, ItemEncoder, Views
from mim_keras.encoders.text_reader import TextReader

# What a table gives to towers at once.
LARGEST_BATCH = 256
BATCH_TOKENS = 16_384


class ContentReader:
    """Encoded pictures and strings → `Content`.

    Args:
        config: Size of the pictures.
        words: Reads the text.
    """

    def __init__(self, config: EncoderConfig, words: TextReader) -> None:
        self._size = config.image.size
        self._words = words

    def __call__(self, image: tf.Tensor, title: tf.Tensor, text: tf.Tensor) -> Content:
        """All string tensors [B]; an empty string is a missing modality."""
        words = join_words(title, text)
        return {
            "image": self.pictures(image) / 255.0,
            "image_mask": tf.cast(tf.strings.length(image) > 0, tf.float32),
            **self._words(words),
            "text_mask": tf.cast(tf.strings.length(tf.strings.strip(words)) > 0, tf.float32),
        }

    def pictures(self, image: tf.Tensor) -> tf.Tensor:
        """JPEG or PNG [B] → float32 [B, size, size, 3], whole numbers 0 to 255; black where there is none."""
        shape = (self._size, self._size, 3)

        def one(data: tf.Tensor) -> tf.Tensor:
            def decode() -> tf.Tensor:
                pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
                smaller = tf.reduce_all(tf.shape(pixels)[:2] <= self._size)
                # To enlarge needs no filter, and without it takes half the time; the pixels are the same.
                resized = tf.cond(
                    smaller,
                    lambda: tf.image.resize(pixels, shape[:2]),
                    lambda: tf.image.resize(pixels, shape[:2], antialias=True),
                )
                return tf.ensure_shape(resized, shape)

            return tf.cond(tf.strings.length(data) > 0, decode, lambda: tf.zeros(shape))

        # What can be done to the whole batch is not done picture by picture: a third of the time.
        resized = tf.map_fn(one, image, fn_output_signature=tf.TensorSpec(shape, tf.float32))
        return tf.clip_by_value(tf.round(resized), 0, 255)


def join_words(title: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
    """Title and text [B] as one string each: the title is the first line, the text those behind it."""
    return tf.strings.join([tf.strings.regex_replace(title, r"[\r\n]+", " "), text], separator="\n")


def trim_tokens(content: Content) -> Content:
    """Cuts the token columns to the longest text of the batch: what is masked costs nothing."""
    if "token_mask" not in content:
        return content
    longest = tf.maximum(1, tf.reduce_max(tf.reduce_sum(tf.cast(content["token_mask"], tf.int32), axis=1)))
    return {
        **content,
        "token_ids": content["token_ids"][:, :longest],
        "token_mask": content["token_mask"][:, :longest],
    }


class ContentTable:
    """The content of many items, read once, in memory: a row each.

    Pictures are kept as bytes (uint8), so a million items of 48 pixels take 7 GB.
    """

    def __init__(self, reader: ContentReader, image: np.ndarray, title: np.ndarray, text: np.ndarray) -> None:
        parts: list[dict[str, np.ndarray]] = []
        read = tf.function(reader)
        for begin in range(0, len(image), 256):
            rows = slice(begin, begin + 256)
            content = read(tf.constant(image[rows]), tf.constant(title[rows]), tf.constant(text[rows]))
            part = {name: value.numpy() for name, value in content.items()}
            part["image"] = np.round(part["image"] * 255).astype(np.uint8)
            parts.append(part)
        self.columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def __len__(self) -> int:
        return len(self.columns["image"])

    def rows(self, rows: Any) -> Content:
        """Content of the rows `rows` int [B], as tensors; usable inside `tf.data`."""
        content = {name: tf.gather(values, rows) for name, values in self.columns.items()}
        content["image"] = tf.cast(content["image"], tf.float32) / 255.0
        return content

    def encode(self, encoder: ItemEncoder, features: dict[str, np.ndarray] | None = None) -> Views:
        """The views and the vector of every row, as NumPy arrays [rows, ·].

        Args:
            encoder: That encodes.
            features: What its towers say, where that is known already; see `features`.
        """
        return self._of_every_row(encoder) if features is None else self._of_features(encoder.views, features)

    def joint(self, encoder: ItemEncoder, features: dict[str, np.ndarray]) -> np.ndarray:
        """The joint view alone of what the towers say, [rows, embedding_dim]; the vector may be far wider."""
        return self._of_features(lambda content: {"joint": encoder.embed(content)["joint"]}, features)["joint"]

    def features(self, encoder: ItemEncoder, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What the towers say of every row, or of these, as NumPy arrays; constant while the towers are frozen."""
        return self._of_every_row(encoder.features, rows)

    def hashes(self) -> np.ndarray:
        """Of every row's content, 32 hexadecimal digits each, S32 [rows]; rows of one content have one."""
        columns = [np.ascontiguousarray(self.columns[name]) for name in sorted(self.columns)]

        def of(row: int) -> bytes:
            found = hashlib.blake2b(digest_size=16)
            for column in columns:
                found.update(column[row].tobytes())
            return found.hexdigest().encode()

        return np.array([of(row) for row in range(len(self))], "S32")

    def _of_features(
        self, compute: Callable[[Content], Content], features: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        return self._in_parts(
            lambda rows: compute({n: v[rows.numpy()] for n, v in features.items()}), np.arange(len(self)), 4096
        )

    def _of_every_row(
        self, compute: Callable[[Content], Content], rows: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Texts of like length together, so that little of what a tower reads is padding, and as many as it can hold:
        its attention takes the square of their length."""
        order, batch = np.arange(len(self)) if rows is None else rows, LARGEST_BATCH
        if "token_mask" in self.columns:
            order = order[np.argsort(self.columns["token_mask"][order].sum(axis=1), kind="stable")]
            batch = max(1, min(batch, BATCH_TOKENS // self.columns["token_mask"].shape[1]))
        return self._in_parts(tf.function(lambda rows: compute(trim_tokens(self.rows(rows)))), order, batch)

    @staticmethod
    def _in_parts(call: Callable[[tf.Tensor], Content], order: np.ndarray, batch: int) -> dict[str, np.ndarray]:
        """What `call` says of rows, asked in this order and given in the table's."""
        parts = [call(tf.constant(order[begin : begin + batch])) for begin in range(0, len(order), batch)]
        back = np.argsort(order)
        return {name: np.concatenate([part[name].numpy() for part in parts])[back] for name in parts[0]}
