"""Stage 1: catalogue in, aligned encoder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import EncoderConfig, PretrainConfig, from_mapping
from mim_keras.encoders.content import ContentReader, ContentTable
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.export import CONTENT_BATCHES, export_encoder
from mim_keras.pretrain import Pretraining
from mim_keras.training.batches import Epochs, shuffled
from mim_keras.training.checkpoints import forget
from mim_keras.training.fit import fit, log, make_ready, seeded
from mim_keras.training.strategy import batch_of, make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue, cross_modal_recall
from tfx_pipeline.run_fns.places import checkpoints_of, features_of, model_run_folder


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `encoder` and `pretrain` settings and the catalogue's folder."""
    encoder_config = from_mapping(EncoderConfig, fn_args.custom_config["encoder"])
    config = from_mapping(PretrainConfig, fn_args.custom_config["pretrain"])
    seeded(config.training)
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"])
    with make_strategy(config.training).scope():
        encoder, words = new_encoder(encoder_config, catalogue)
    table = catalogue.table(ContentReader(encoder_config, words))
    features = features_of(fn_args).features(table, encoder) if config.frozen_towers else None
    untrained = cross_modal_recall(table, table.encode(encoder, features), catalogue.held_out)
    logs = model_run_folder(fn_args.model_run_dir)
    checkpoints = checkpoints_of(fn_args, "pretrain")
    pretrain(encoder, config, catalogue, table, features, logs, checkpoints)
    trained = cross_modal_recall(table, table.encode(encoder, features), catalogue.held_out)
    log.info("pretrain: held-out Recall@10 %s, before training %s", trained, untrained)
    (logs / "recall.json").write_text(json.dumps({"trained": trained, "untrained": untrained}, indent=2))
    export_encoder(encoder, words, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))
    forget(checkpoints[0])


def new_encoder(config: EncoderConfig, catalogue: Catalogue) -> tuple[ItemEncoder, TextReader]:
    """An encoder as it comes, and what its towers for words read: the catalogue's own vocabulary."""
    words, lexical = TextReader.fit(config, catalogue.words())
    encoder = ItemEncoder(config, words)
    encoder.build()
    encoder.fill(lexical)
    return encoder, words


def pretrain(
    encoder: ItemEncoder,
    config: PretrainConfig,
    catalogue: Catalogue,
    table: ContentTable,
    features: dict[str, np.ndarray] | None = None,
    logs: Path | None = None,
    checkpoints: tuple[Path, object] | None = None,
) -> None:
    """Trains the encoder on the items that are not held out.

    Args:
        encoder: As it comes.
        config: Of stage 1.
        catalogue: With its categories.
        table: Its content, and rows behind it that are not trained on.
        features: What the towers say of it, where that is known already; looked at only where they are frozen.
        logs: Where the curves go.
        checkpoints: See `fit`.
    """
    training = config.training
    said = (features or table.features(encoder)) if config.frozen_towers else {}
    categories = catalogue.multi_hot()
    rows = np.flatnonzero(~catalogue.held_out)
    batch_size = batch_of(training, len(rows))
    with make_strategy(training).scope():
        if config.trainable != "all":
            encoder.freeze_towers(config.top_blocks)
        model = Pretraining(encoder, config, categories.shape[1])
        steps = training.epochs * (len(rows) // batch_size)
        make_ready(model, training, steps)

    def read(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        content = {name: tf.gather(values, batch) for name, values in said.items()} or table.rows(batch)
        return {**content, "category": tf.gather(categories, batch)}

    def make(epoch: tf.Tensor) -> tf.data.Dataset:
        everything = tf.data.Dataset.from_tensor_slices(rows)
        return shuffled(everything, len(rows), epoch, batch_size).map(read, tf.data.AUTOTUNE)

    batches = Epochs(make, training.seed, len(rows) // batch_size)
    fit("pretrain", model, batches, training, log_folder=logs, checkpoints=checkpoints)
