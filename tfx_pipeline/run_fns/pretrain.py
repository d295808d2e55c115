"""Stage 1: catalogue in, aligned encoder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import EncoderConfig, PretrainConfig, from_mapping
from mim_keras.encoders.content import ContentReader
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.export import CONTENT_BATCHES, export_encoder
from mim_keras.pretrain import Pretraining
from mim_keras.training.fit import fit, log, optimizer, seeded
from mim_keras.training.strategy import make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue, cross_modal_recall, model_run_folder


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `encoder` and `pretrain` settings and the catalogue's folder."""
    encoder_config = from_mapping(EncoderConfig, fn_args.custom_config["encoder"])
    config = from_mapping(PretrainConfig, fn_args.custom_config["pretrain"])
    training = config.training
    seeded(training)
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"])
    words, lexical = TextReader.fit(encoder_config, catalogue.words())
    table = catalogue.table(ContentReader(encoder_config, words))
    categories = catalogue.multi_hot()

    rows = np.flatnonzero(~catalogue.held_out)
    batch_size = min(training.batch_size, len(rows))
    with make_strategy(training).scope():
        encoder = ItemEncoder(encoder_config, words)
        encoder.build()
        if encoder.lexical_tower is not None and lexical is not None:
            encoder.lexical_tower.fill(lexical)
            encoder.lexical_tower.trainable = False
        model = Pretraining(encoder, config, categories.shape[1])
        steps = training.epochs * (len(rows) // batch_size)
        model.compile(optimizer=optimizer(training, steps), jit_compile=training.jit_compile)

    def read(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**table.rows(batch), "category": tf.gather(categories, batch)}

    dataset = (
        tf.data.Dataset.from_tensor_slices(rows)
        .shuffle(len(rows), seed=training.seed)
        .batch(batch_size, drop_remainder=True)
        .map(read, tf.data.AUTOTUNE)
        .prefetch(2)
    )
    untrained = cross_modal_recall(table, table.encode(encoder), catalogue.held_out)
    logs = model_run_folder(fn_args.model_run_dir)
    fit("pretrain", model, dataset, training, log_folder=logs)
    trained = cross_modal_recall(table, table.encode(encoder), catalogue.held_out)
    log.info("pretrain: held-out Recall@10 %s, before training %s", trained, untrained)
    (logs / "recall.json").write_text(json.dumps({"trained": trained, "untrained": untrained}, indent=2))
    export_encoder(encoder, words, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))
