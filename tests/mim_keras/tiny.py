"""Small models, and inputs for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from mim_keras.config import CiubmConfig, CsftConfig, EncoderConfig, from_mapping, preset, to_mapping
from mim_keras.layers import ItemTable, ItemTableData
from mim_keras.models import CiUBM, Csft, ImageTextAlignment, ItemEncoder, Ranker, VocabularySizes, make_ranker
from mim_keras.preprocessing.content import ContentPreprocessor

ITEMS, D, L = 12, 16, 8
CONTENTS = 16
TEXTS = ["red striped heart mug", "blue dotted star lamp", "green plain circle rug"] * 5


def item_data(dtype: str = "int8") -> ItemTableData:
    """Twelve items; the fourth has no embedding, the last four have no id."""
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(ITEMS, D))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    stored = np.rint(127 * embeddings).astype(np.int8) if dtype == "int8" else embeddings.astype(dtype)
    id_index = np.where(np.arange(ITEMS) < 8, np.arange(1, ITEMS + 1), 0)
    return ItemTableData.from_items(stored, np.arange(ITEMS) != 3, [["a"], ["b"], []] * 4, id_index)


def ranker_config(**changes: Any) -> CiubmConfig:
    return from_mapping(CiubmConfig, {**to_mapping(preset("tiny").ciubm), **changes})


def ranker(
    data: ItemTableData | None = None, context: tuple[int, ...] = (), statistics: int = 0, **changes: Any
) -> CiUBM:
    keras.utils.set_random_seed(2)
    table = ItemTable.from_data(data or item_data())
    return CiUBM(ranker_config(**changes), VocabularySizes(users=5, context=context, statistics=statistics), table)


def any_ranker(
    config: CiubmConfig, seed: int = 3, data: ItemTableData | None = None, sizes: VocabularySizes | None = None
) -> Ranker:
    keras.utils.set_random_seed(seed)
    return make_ranker(config, sizes or VocabularySizes(users=5), data or item_data())


def ranker_inputs(rows: int = 6) -> dict[str, np.ndarray]:
    """The first history is empty."""
    rng = np.random.default_rng(7)
    history = rng.integers(0, ITEMS + 1, (rows, L))
    history[0] = 0
    return {
        "item_row": rng.integers(1, ITEMS + 1, rows),
        "history_rows": history,
        "history_ages": rng.integers(0, 10**6, (rows, L)),
        "user_index": rng.integers(0, 5, rows),
    }


def tiny_encoder(seed: int = 1, config: EncoderConfig | None = None) -> tuple[ItemEncoder, ContentPreprocessor]:
    """An untrained encoder and its preprocessor."""
    keras.utils.set_random_seed(seed)
    config = config or preset("tiny").encoder
    preprocessor, tables = ContentPreprocessor.fit(config, TEXTS)
    return ItemEncoder.from_settings(config, preprocessor, tables), preprocessor


def encoder_inputs(rows: int = CONTENTS) -> dict[str, np.ndarray]:
    """Contents of four kinds; the first lacks its image, the second its text, the third both."""
    config, rng = preset("tiny").encoder, np.random.default_rng(0)
    kind, size = np.arange(rows) % 4, config.image.image_size
    image_mask, text_mask = np.ones(rows, "float32"), np.ones(rows, "float32")
    image_mask[[0, 2]], text_mask[[1, 2]] = 0, 0
    images = np.zeros((rows, size, size, 3), "float32")
    images += np.eye(4, 3)[kind][:, None, None, :] * 0.8 + rng.uniform(0, 0.1, images.shape)
    tokens = (5 + 3 * kind[:, None] + np.arange(12)[None, :] % 3).astype("int32")
    return {
        "image": images.astype("float32") * image_mask[:, None, None, None],
        "image_mask": image_mask,
        "token_ids": tokens,
        "token_mask": np.repeat(text_mask[:, None] > 0, 12, axis=1),
        "text_mask": text_mask,
    }


def alignment(**changes: Any) -> ImageTextAlignment:
    config = replace(preset("tiny").pretrain, **changes)
    return ImageTextAlignment(tiny_encoder()[0], config, num_categories=4)


def csft_config(**changes: Any) -> CsftConfig:
    return from_mapping(CsftConfig, {**to_mapping(preset("tiny").csft), "training": {"batch_size": 8}, **changes})


def features_of(encoder: ItemEncoder, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tower features with a padding row in front."""
    features = {name: numbers32(values) for name, values in encoder.towers(content).items()}
    return {name: np.concatenate([np.zeros_like(values[:1]), values]) for name, values in features.items()}


def random_features(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Tower features of contents that have both modalities, in the widths of `tiny_encoder`."""
    return {
        "image_features": rng.normal(size=(rows, 32)).astype("float32"),
        "text_features": rng.normal(size=(rows, 16)).astype("float32"),
        "image_mask": np.ones(rows, "float32"),
        "text_mask": np.ones(rows, "float32"),
    }


def numbers32(values: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")))


def csft(frozen: bool = True, query_length: int = 1, positives: Any = None, **changes: Any) -> Csft:
    """Stage 2 over `encoder_inputs`; with frozen towers it reads their features."""
    encoder, _ = tiny_encoder()
    if frozen:
        encoder.freeze_towers()
    model = Csft(encoder, csft_config(**changes), CONTENTS, query_length)
    features = features_of(encoder, encoder_inputs()) if frozen else None
    model.set_data(features, np.zeros(CONTENTS + 1, "float32"), positives)
    return model


def pairs(rows: int = CONTENTS, query_length: int = 1, hard: int = 2) -> dict[str, np.ndarray]:
    """Pairs of contents of one kind."""
    rng, item = np.random.default_rng(3), np.arange(rows) % CONTENTS
    query = np.stack([(item + 4 * (n + 1)) % CONTENTS + 1 for n in range(query_length)], axis=1)
    return {
        "query_rows": query.astype("int32"),
        "item_row": (item + 1).astype("int32"),
        "hard_negative_rows": rng.integers(0, CONTENTS + 1, (rows, hard)).astype("int32"),
        "key": np.arange(rows, dtype="int32"),
    }


def with_content(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pairs with the content of their rows, for trained towers."""
    columns = [batch["query_rows"], batch["item_row"][:, None], batch["hard_negative_rows"]]
    rows = np.maximum(np.concatenate(columns, axis=1) - 1, 0)
    return {**batch, **{name: values[rows] for name, values in encoder_inputs().items()}}
