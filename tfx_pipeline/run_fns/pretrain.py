"""Stage 1: catalogue in, aligned encoder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import EncoderConfig, PretrainConfig, from_mapping
from mim_keras.models import ImageTextAlignment, ItemEncoder
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor, map_features
from mim_keras.serving.signatures_encoder import CONTENT_BATCHES, export_encoder
from mim_keras.training.callbacks import CheckpointFiles
from mim_keras.training.epoch_dataset import EpochDataset, shuffle_and_batch
from mim_keras.training.run_training import TrainingRun, compile_model, log, run_training, set_seed_and_precision
from mim_keras.training.strategy import global_batch_size, make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue, cross_modal_recall
from tfx_pipeline.run_fns.places import Checkpoints, model_run_folder, tower_features


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `encoder` and `pretrain` settings and the catalogue's folder."""
    encoder_config = from_mapping(EncoderConfig, fn_args.custom_config["encoder"])
    config = from_mapping(PretrainConfig, fn_args.custom_config["pretrain"])
    set_seed_and_precision(config.training)
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"], towers=encoder_config.embeddings)
    with make_strategy(config.training).scope():
        encoder, preprocessor = new_encoder(encoder_config, catalogue)
    content = catalogue.dataset(preprocessor)
    features = tower_features(fn_args, content, encoder) if config.frozen_towers else None
    untrained = cross_modal_recall(content, encode(encoder, content, features), catalogue.held_out)
    logs = model_run_folder(fn_args.model_run_dir)
    checkpoints = Checkpoints(fn_args, "pretrain")
    pretrain(encoder, config, catalogue, content, features, logs, checkpoints.files)
    trained = cross_modal_recall(content, encode(encoder, content, features), catalogue.held_out)
    log.info("pretrain: held-out Recall@10 %s, before training %s", trained, untrained)
    (logs / "recall.json").write_text(json.dumps({"trained": trained, "untrained": untrained}, indent=2))
    export_encoder(encoder, preprocessor, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))
    checkpoints.delete()


def new_encoder(config: EncoderConfig, catalogue: Catalogue) -> tuple[ItemEncoder, ContentPreprocessor]:
    """An untrained encoder and its preprocessor, with the catalogue's own vocabulary."""
    preprocessor, lsa_tables = ContentPreprocessor.fit(config, catalogue.words())
    return ItemEncoder.from_settings(config, preprocessor, lsa_tables), preprocessor


def encode(
    encoder: ItemEncoder, content: ContentDataset, features: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The views and the embedding of every content, [n, ·] each; of tower features where these are known."""
    return content.map(encoder) if features is None else map_features(encoder.encode_features, features)


def encode_views(encoder: ItemEncoder, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The views alone of tower features, [n, embedding_dim] each; the embedding may be far wider."""
    return map_features(lambda part: dict(encoder.projection(part)), features)


def pretrain(
    encoder: ItemEncoder,
    config: PretrainConfig,
    catalogue: Catalogue,
    content: ContentDataset,
    features: dict[str, np.ndarray] | None = None,
    logs: Path | None = None,
    checkpoints: CheckpointFiles | None = None,
) -> None:
    """Trains the encoder on the items that are not held out.

    Args:
        encoder: Untrained.
        config: Of stage 1.
        catalogue: With its categories.
        content: Its content, and rows after it that are not trained on.
        features: Tower features of it, where these are known; read only where towers are frozen.
        logs: Where the curves go.
        checkpoints: See `TrainingRun`.
    """
    training = config.training
    columns = (features or content.map(encoder.towers)) if config.frozen_towers else {}
    categories = catalogue.multi_hot()
    rows = np.flatnonzero(~catalogue.held_out)
    batch_size = global_batch_size(training, len(rows))
    with make_strategy(training).scope():
        if config.trainable != "all":
            encoder.freeze_towers(config.unfreeze_top_blocks, config.lora_rank)
        model = ImageTextAlignment(encoder, config, categories.shape[1])
        compile_model(model, training, training.epochs * (len(rows) // batch_size))

    def read(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        inputs = {name: tf.gather(values, batch) for name, values in columns.items()} or content.gather(batch)
        return inputs, tf.gather(categories, batch)

    def make(seed: tf.Tensor) -> tf.data.Dataset:
        everything = tf.data.Dataset.from_tensor_slices(rows)
        return shuffle_and_batch(everything, len(rows), seed, batch_size).map(read, tf.data.AUTOTUNE)

    batches = EpochDataset(make, training.seed, len(rows) // batch_size)
    run = TrainingRun("pretrain", training.epochs, log_folder=logs, checkpoint=checkpoints)
    run_training(model, batches, run)
