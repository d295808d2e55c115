"""Trains one variant with one seed, and measures it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from mim_keras.config import CiubmConfig, EncoderConfig, StagesConfig, to_mapping
from mim_keras.layers import ItemTableData
from mim_keras.metrics import ranking_metrics
from mim_keras.models import ItemEncoder, VocabularySizes, make_ranker
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor
from mim_keras.serving.signatures_encoder import load_encoder
from mim_keras.training.feature_cache import FeatureCache
from mim_keras.training.ranking_dataset import Predictor, ranking_dataset
from mim_keras.training.run_training import set_seed_and_precision
from mim_keras.training.strategy import global_batch_size, make_strategy
from mim_keras.training.train_ranker import compile_ranker, train_ranker
from serving.representation_center.vectors import store_vectors
from tfx_pipeline.ablation.inputs import Inputs, Rows
from tfx_pipeline.ablation.variants import Variant
from tfx_pipeline.run_fns.catalogue import cross_modal_recall
from tfx_pipeline.run_fns.csft import tune
from tfx_pipeline.run_fns.pair_figures import pair_figures
from tfx_pipeline.run_fns.pairs import Pairs, read_pairs
from tfx_pipeline.run_fns.pretrain import encode, new_encoder, pretrain

EVALUATED_ROWS = 8192
T = TypeVar("T")


class Latest(Generic[T]):
    """What was made last, for as long as the same is asked for."""

    def __init__(self) -> None:
        self._key, self._value = None, None  # type: tuple[Any, T | None]

    def of(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gave for this key, now or just before."""
        if self._value is None or key != self._key:
            self._key, self._value = key, make()
        return self._value


def _shape(config: EncoderConfig) -> dict[str, Any]:
    """An encoder's settings, but for what is kept of an item, which changes nothing that is read or trained."""
    return {name: value for name, value in to_mapping(config).items() if name != "item_embedding_parts"}


def _frozen(stages: StagesConfig) -> bool:
    """Whether no stage trains towers."""
    return stages.pretrain.frozen_towers and stages.csft.frozen_towers


def _untouched(stages: StagesConfig) -> bool:
    """Whether no stage reaches the vector: it is what frozen towers say."""
    return _frozen(stages) and "joint" not in stages.encoder.item_embedding_parts


class Bench:
    """Trains variants on the same inputs; what several of them need is made once and kept in `folder`.  The ranker
    reads vectors as a snapshot of this dtype keeps them."""

    def __init__(self, inputs: Inputs, stages: StagesConfig, folder: Path, dtype: str = "int8") -> None:
        self._inputs, self._stages, self._folder, self._dtype = inputs, stages, folder, dtype
        self._pairs: Latest[tuple[Pairs, Pairs, ContentDataset]] = Latest()
        self._features: Latest[dict[str, np.ndarray]] = Latest()
        self._vectors: Latest[tuple[np.ndarray, np.ndarray, dict[str, dict[str, float]]]] = Latest()

    def measure(self, variant: Variant, seed: int) -> tuple[dict[str, Any], np.ndarray]:
        """Figures on valid and test, each over all rows and over each slice; on test's further cuts, under the name of
        each; of the content, where the variant looks at it (`content_figures`); and the seconds it took.  Beside them
        the click probabilities of test's rows, float32.
        """
        begin = time.monotonic()
        stages = variant.settings(self._stages, seed)
        items = len(self._inputs.catalogue.item_id)
        vectors, has_vector = np.zeros((items, 1), np.int8), np.zeros(items, bool)
        found: dict[str, Any] = {}
        if variant.stages != "none":
            folder = self._encoder(variant, stages)
            wanted = folder, stages.encoder.item_embedding_parts
            vectors, has_vector, content = self._vectors.of(wanted, lambda: self._encode(folder, stages))
            if content:
                found["content"] = content
        scorer = self._ranker(stages.ciubm, vectors, has_vector)
        scores = {split: scorer(self._inputs.splits[split].batches(EVALUATED_ROWS)) for split in ("valid", "test")}
        found |= {split: figures(self._inputs.splits[split], score) for split, score in scores.items()}
        test = self._inputs.splits["test"]
        found |= {
            name: figures(replace(test, slices=cuts), scores["test"]) for name, cuts in self._inputs.views.items()
        }
        keras.backend.clear_session()
        return {**found, "seconds": round(time.monotonic() - begin, 1)}, scores["test"]

    # -- stages 1 and 2 ------------------------------------------------------------------------------------

    def _encoder(self, variant: Variant, stages: StagesConfig) -> Path:
        """Folder of the encoder that the variant's stages make."""
        seed, shape = stages.csft.training.seed, _shape(stages.encoder)
        seed = seed if stages.encoder.has_random_init or not _untouched(stages) else 1
        raw = self._made(("raw", shape, seed), lambda folder: self._raw(stages, folder))
        if _untouched(stages):
            return raw
        base, key_of_base = raw, ("raw", seed)
        if variant.stages in ("1", "1+2"):
            key_of_base = ("1", to_mapping(stages.pretrain))  # type: ignore[assignment]
            base = self._made((key_of_base, shape), lambda folder: self._stage_1(stages, raw, folder))
        if variant.stages in ("2", "1+2"):
            before = base
            key = (key_of_base, shape, to_mapping(stages.csft))
            base = self._made(key, lambda folder: self._stage_2(stages, before, folder))
        return base

    def _made(self, key: Any, make: Callable[[Path], None]) -> Path:
        """The folder that `make` filled for this key, now or before."""
        folder = self._folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            make(part)
            part.rename(folder)
        return folder

    def _raw(self, stages: StagesConfig, folder: Path) -> None:
        set_seed_and_precision(stages.pretrain.training)
        encoder, preprocessor = new_encoder(stages.encoder, self._inputs.catalogue)
        _save(encoder, preprocessor, folder)

    def _stage_1(self, stages: StagesConfig, base: Path, folder: Path) -> None:
        set_seed_and_precision(stages.pretrain.training)
        with make_strategy(stages.pretrain.training).scope():
            encoder, preprocessor = load_encoder(base)
        _, _, table = self._read(preprocessor)
        features = self._said(encoder, table, stages) if stages.pretrain.frozen_towers else None
        pretrain(encoder, stages.pretrain, self._inputs.catalogue, table, features)
        _save(encoder, preprocessor, folder)

    def _stage_2(self, stages: StagesConfig, base: Path, folder: Path) -> None:
        set_seed_and_precision(stages.csft.training)
        with make_strategy(stages.csft.training).scope():
            encoder, preprocessor = load_encoder(base)
        pairs, _, table = self._read(preprocessor)
        features = self._said(encoder, table, stages)
        tune(encoder, stages.csft, pairs, table, features, self._inputs.catalogue.categories)
        _save(encoder, preprocessor, folder)

    def _read(self, preprocessor: ContentPreprocessor) -> tuple[Pairs, Pairs, ContentDataset]:
        """Pairs to train on and pairs held out, with their content as this preprocessor reads it."""
        key, inputs = _shape(preprocessor.config), self._inputs
        return self._pairs.of(key, lambda: read_pairs(inputs.pairs, inputs.catalogue, preprocessor))

    def _said(self, encoder: ItemEncoder, table: ContentDataset, stages: StagesConfig) -> dict[str, np.ndarray]:
        """What the towers say of the table; the same for all encoders of a seed where no stage trains towers, and for
        all seeds where none is drawn."""
        if not _frozen(stages):
            return table.map(encoder.towers)
        key = _shape(stages.encoder), stages.encoder.has_random_init and stages.csft.training.seed
        kept = FeatureCache(self._folder / "tower_features")  # for further seeds, and when it is asked again
        return self._features.of(key, lambda: kept.get_or_compute(table, encoder))

    def _encode(self, folder: Path, stages: StagesConfig) -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, float]]]:
        """Every item's vector as a snapshot stores it, [items, d], whether it has one, and `content_figures`; none of
        these where the variant looks at no view."""
        encoder, preprocessor = load_encoder(folder)
        parts = {"item_embedding_parts": list(stages.encoder.item_embedding_parts)}
        other = ItemEncoder.from_config({**encoder.get_config(), **parts})
        other.set_weights(encoder.get_weights())  # another choice of parts has no weights of its own
        trained, held_out, table = self._read(preprocessor)
        views = encode(other, table, self._said(encoder, table, stages))
        vectors = views["embedding"][: len(self._inputs.catalogue.item_id)]
        held = self._inputs.catalogue.held_out
        found = {} if _untouched(stages) else content_figures(table, views, held_out, trained, held)
        return store_vectors(vectors, self._dtype), np.any(vectors != 0, axis=1), found

    # -- stage 3 -------------------------------------------------------------------------------------------

    def _ranker(self, config: CiubmConfig, vectors: np.ndarray, has_vector: np.ndarray) -> Predictor:
        training, train = config.training, self._inputs.splits["train"]
        set_seed_and_precision(training)
        data = ItemTableData.from_items(vectors, has_vector, self._inputs.catalogue.categories, self._inputs.id_index)
        batch = global_batch_size(training, len(train.item))
        inputs = train.inputs(np.arange(len(train.item)))
        if not config.reads_ages:
            del inputs["history_ages"]
        similarity_items = data if config.can_precompute_similarity else None
        batches = ranking_dataset(inputs, train.label, batch, training.seed, config.id_dropout, similarity_items)
        with make_strategy(training).scope():
            model = make_ranker(config, VocabularySizes(self._inputs.users), data)
            compile_ranker(model, batches.steps)
        valid, predict = self._inputs.splits["valid"], Predictor(model)

        def measure() -> dict[str, float]:
            return ranking_metrics(valid.person, valid.label, predict(valid.batches(EVALUATED_ROWS)))

        train_ranker(model, batches, evaluate=measure if training.patience else None)
        return predict


def _save(encoder: ItemEncoder, preprocessor: ContentPreprocessor, folder: Path) -> None:
    encoder.save_to_preset(folder)
    preprocessor.save_to_preset(folder)


def content_figures(
    table: ContentDataset, views: dict[str, np.ndarray], pairs: Pairs, trained: Pairs, held_out: np.ndarray
) -> dict[str, dict[str, float]]:
    """Recall@10 of what the encoder did not learn from: `recall_at_10`, and how many times chance that is.

    Of the pictures of held-out items among their words, and the reverse; of held-out `pairs` among all items, and of
    their parts (see `pair_figures`).
    """
    items = len(held_out)
    rows = np.concatenate([held_out, np.zeros(len(table) - items, bool)])
    crossed, paired = cross_modal_recall(table, views, rows), pair_figures(views["joint"], pairs, trained, items)
    found = {
        "picture to words": (crossed["image_to_text"], crossed["chance"]),
        "words to picture": (crossed["text_to_image"], crossed["chance"]),
        **{name: (recall, paired["chance"]) for name, recall in paired["recall_at_10"].items()},
    }
    return {name: {"recall_at_10": value, "times_chance": value / chance} for name, (value, chance) in found.items()}


def figures(rows: Rows, score: np.ndarray) -> dict[str, dict[str, float]]:
    """AUC, GAUC, LogLoss and rows, over `all` and over each slice; `score` are click probabilities of all rows."""
    found = {}
    for name, keep in {"all": np.ones(len(score), bool), **rows.slices}.items():
        if keep.any():
            measured = ranking_metrics(rows.person[keep], rows.label[keep], score[keep])
            found[name] = {**measured, "rows": int(keep.sum())}
    return found
