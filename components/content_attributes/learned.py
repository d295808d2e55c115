"""Attributes of items that are learned from their content and from what users clicked."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from absl import logging
from sklearn.cluster import MiniBatchKMeans
from sklearn.feature_extraction.text import CountVectorizer

from components.content_attributes.describe import TOKEN, describe_images, describe_texts, has_blanks
from components.content_attributes.user_effects import Activity, best_attribute, values_that_matter
from components.item_attributes import LEARNED

COARSEST = 8  # clusters; each level has twice as many
FEWEST_ITEMS, MOST_ITEMS, MOST_WORDS = 5, 0.5, 5_000  # items that have a word, the share of them, words looked at
SAME = 0.8  # share of the items of two words that have both, above which one of them is left out
WORDS_OF_ITEM = 4
SEPARATOR = "|"

Content = dict[str, list[bytes]]  # columns of a batch of items
Assign = Callable[[Content], list[bytes]]


@dataclass(frozen=True)
class Sample:
    """Items that attributes are learned from.

    Attributes:
        texts: As of `join`, [items].
        images: As of `describe_images`, float32 [items, bins].
        activity: Of these items.
    """

    texts: list[str]
    images: np.ndarray
    activity: Activity


def learn_attributes(sample: Sample, clusters: int, words: int) -> dict[str, Assign]:
    """Functions from a batch of content to values of `LEARNED`, by attribute; b"" where there is none.

    Args:
        sample: Items and what users clicked of them.
        clusters: Of pictures, and of texts, at most.
        words: At most; 0 for none.
    """
    seen = ~np.isnan(sample.images).any(axis=1)
    colors = _clusters(np.nan_to_num(sample.images), seen, clusters, sample.activity)
    language = describe_texts([text for text in sample.texts if text.strip()])
    described = language(sample.texts) if language else np.zeros((len(sample.texts), 1), np.float32)
    topics = _clusters(described, np.any(described != 0, axis=1), clusters, sample.activity)
    chosen = _words(sample, words)
    for kind, found in (("pictures", colors), ("texts", topics)):
        count = "no" if found is None else str(found.n_clusters)
        logging.info("content: %s clusters of %s in which users differ", count, kind)
    logging.info("content: %d words in which users differ%s", len(chosen), ": " * bool(chosen) + ", ".join(chosen[:20]))

    def of_images(batch: Content) -> list[bytes]:
        found = describe_images(batch["image"])
        return _names("look", colors, found, ~np.isnan(found).any(axis=1))

    def of_texts(batch: Content) -> list[bytes]:
        joined = join(batch)
        found = language(joined) if language and joined else np.zeros((len(joined), 1), np.float32)
        return _names("topic", topics, found, np.any(found != 0, axis=1))

    tokens = _tokens(sample.texts)
    rank = {word: place for place, word in enumerate(chosen)}

    def of_words(batch: Content) -> list[bytes]:
        own = (sorted({rank[word] for word in tokens(text) if word in rank}) for text in join(batch))
        return [SEPARATOR.join(chosen[place] for place in places[:WORDS_OF_ITEM]).encode() for places in own]

    return dict(zip(LEARNED, (of_images, of_texts, of_words), strict=True))


def join(content: Content) -> list[str]:
    """Titles and texts as one text each."""
    pairs = zip(content["title"], content["text"], strict=True)
    return [unicodedata.normalize("NFC", f"{title.decode()} {text.decode()}") for title, text in pairs]


def _tokens(texts: list[str]) -> Callable[[str], list[str]]:
    """Splits a text into words, or into pairs of characters where a language writes no blanks."""
    options: dict[str, Any] = {"token_pattern": TOKEN}
    if texts and not has_blanks(texts):
        options = {"analyzer": "char", "ngram_range": (2, 2)}
    split: Callable[[str], list[str]] = CountVectorizer(**options).build_analyzer()
    return lambda text: [word for word in split(text) if SEPARATOR not in word and word.strip() == word]


def _words(sample: Sample, count: int) -> list[str]:
    """The words in which users differ, the largest gain first."""
    if not count:
        return []
    counted = CountVectorizer(
        analyzer=_tokens(sample.texts), binary=True, min_df=FEWEST_ITEMS, max_df=MOST_ITEMS, max_features=MOST_WORDS
    )
    try:
        members = counted.fit_transform(sample.texts).astype(np.float32).tocsr()
    except ValueError:  # no word occurs often enough
        return []
    columns, names = members.tocsc(), counted.get_feature_names_out()
    kept: list[int] = []
    items = np.asarray(members.sum(axis=0)).ravel()
    for word in values_that_matter(sample.activity, members):
        if len(kept) == count:
            break
        both = np.asarray((columns[:, kept].T @ columns[:, word]).todense()).ravel()
        either = items[kept] + items[word] - both
        if not (both > SAME * either).any():
            kept.append(int(word))
    return [str(names[word]) for word in kept]


def _clusters(points: np.ndarray, known: np.ndarray, most: int, activity: Activity) -> MiniBatchKMeans | None:
    """Of several numbers of clusters the one by which users differ most clearly; None where they do not differ."""
    distinct = len(np.unique(points[known].round(4), axis=0)) if known.any() else 0
    most = min(most, distinct)
    if most < 2:
        return None
    levels = [COARSEST << level for level in range(most.bit_length()) if COARSEST << level < most]
    models = [
        MiniBatchKMeans(count, n_init=4, batch_size=4_096, random_state=0).fit(points[known])
        for count in (*levels, most)
    ]
    best = best_attribute(activity, [_members(model.predict(points), known) for model in models])
    return None if best is None else models[best]


def _members(codes: np.ndarray, known: np.ndarray) -> sp.csr_matrix:
    rows = np.flatnonzero(known)
    return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, codes[rows])), (len(codes), int(codes.max()) + 1))


def _names(kind: str, model: MiniBatchKMeans | None, points: np.ndarray, known: np.ndarray) -> list[bytes]:
    """Names of the points' clusters.

    A name has a digest of all clusters of its kind: after other items were fitted, no name is one of before, and a warm
    start carries nothing from one cluster to another.
    """
    names = [b""] * len(known)
    if model is not None and known.any():
        fitted = hashlib.sha256(model.cluster_centers_.round(4).tobytes()).hexdigest()[:6]
        for row, code in zip(np.flatnonzero(known), model.predict(points[known]), strict=True):
            names[row] = f"{kind} {code} of {fitted}".encode()
    return names
