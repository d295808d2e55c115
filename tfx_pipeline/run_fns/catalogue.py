"""Reads the catalogue that CatalogueGen wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from components.catalogue_gen.executor import SPLITS
from components.columns import concatenate, lists_to_matrix
from components.examples import read_split
from components.item_attributes import attribute_values, number_bounds
from mim_keras.config import EmbeddingTowerConfig
from mim_keras.metrics.catalogue_recall import catalogue_recall
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor, join_title_and_text

NO_ATTRIBUTES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Catalogue:
    """Raw columns of the catalogue, in one order.

    Attributes:
        item_id, title, text, image: bytes [items].
        categories: Names of each item's categories; `|` divides several.
        held_out: True for items of split `valid`.
        embeddings: Ready-made ones, float32 [items, dim] by name.
        attributes: Values of each item's further attributes, by name.
        bounds: Between the buckets of attributes that are numbers, by name.
    """

    item_id: np.ndarray
    title: np.ndarray
    text: np.ndarray
    image: np.ndarray
    categories: list[list[str]]
    held_out: np.ndarray
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, list[list[str]]] = field(default_factory=dict)
    bounds: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def read(
        folder: str,
        content: bool = True,
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        towers: Sequence[EmbeddingTowerConfig] = (),
    ) -> Catalogue:
        """Reads all splits of the Examples artifact in `folder`.

        Args:
            folder: Of the artifact.
            content: Whether titles, texts and images are read.
            attributes: Kinds of the attributes that are read, by name: `categorical`, `number` or `list`.
            towers: Of the ready-made embeddings that are read.
        """
        lists = tuple(tower.name for tower in towers)
        names = (*lists, "item_id", "category", *(("title", "text", "image") if content else ()), *attributes)
        batches, held_out = [], []
        for split in SPLITS:
            for _, columns in read_split(folder, split, lists, names):
                batches.append(columns)
                held_out += [split == "valid"] * len(columns["item_id"])
        columns = concatenate(batches)

        def column(name: str) -> np.ndarray:
            values = columns[name].to_pylist() if name in columns else [b""] * len(held_out)
            array = np.empty(len(values), object)
            array[:] = values
            return array

        categories = [value.decode().split("|") if value else [] for value in column("category")]
        of_items = {name: attribute_values(kind, column(name)) for name, kind in attributes.items()}
        bounds = {name: number_bounds(column(name)) for name, kind in attributes.items() if kind == "number"}
        held = np.array(held_out)
        embeddings = {one.name: lists_to_matrix(columns[one.name], one.dim).astype(np.float32) for one in towers}
        item_id, title, text, image = (column(name) for name in ("item_id", "title", "text", "image"))
        return Catalogue(item_id, title, text, image, categories, held, embeddings, of_items, bounds)

    def words(self) -> list[str]:
        """Title and text of each item, joined as `ContentPreprocessor` does, for a vocabulary; "" without either."""
        joined = join_title_and_text(tf.constant(self.title), tf.constant(self.text)).numpy()
        return [words.decode() if words.strip() else "" for words in joined]

    def multi_hot(self) -> np.ndarray:
        """0/1 float32 [items, categories]."""
        names = sorted({name for own in self.categories for name in own})
        place = {name: i for i, name in enumerate(names)}
        values = np.zeros((len(self.categories), len(names)), np.float32)
        for row, own in enumerate(self.categories):
            values[row, [place[name] for name in own]] = 1
        return values

    def contents(self, count: int) -> list[tuple[bytes, bytes, bytes]]:
        """(image, title, text) of the first `count` items."""
        return list(zip(self.image[:count], self.title[:count], self.text[:count], strict=True))

    def dataset(self, preprocessor: ContentPreprocessor) -> ContentDataset:
        """The content of every item, read once."""
        return ContentDataset(preprocessor, self.image, self.title, self.text, self.embeddings)


def cross_modal_recall(
    content: ContentDataset, views: dict[str, np.ndarray], rows: np.ndarray, k: int = 10
) -> dict[str, float]:
    """Recall@k of picture → words and words → picture among those of `rows` that have both.

    Returns:
        `image_to_text`, `text_to_image`, and `chance`, what guessing would reach.
    """
    both = rows & (content.columns["image_mask"] > 0) & (content.columns["text_mask"] > 0)
    image, text = views["image"][both], views["text"][both]
    own = np.arange(len(image))
    return {
        "image_to_text": catalogue_recall(image, text, own, k),
        "text_to_image": catalogue_recall(text, image, own, k),
        "chance": min(1.0, k / max(len(image), 1)),
    }
