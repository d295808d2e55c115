"""Stage 2: pairs and the stage-1 encoder in, tuned encoder out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import ConfigError, CsftConfig, from_mapping
from mim_keras.contrast.items_of_keys import ABSENT, ItemsOfKeys
from mim_keras.csft import Csft
from mim_keras.encoders.content import ContentReader, ContentTable
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.export import CONTENT_BATCHES, ENCODER_FOLDER, export_encoder
from mim_keras.training.batches import Epochs, shuffled, with_seeds
from mim_keras.training.checkpoints import forget
from mim_keras.training.collapse import CollapseAlarm
from mim_keras.training.fit import fit, log, make_ready, seeded
from mim_keras.training.strategy import batch_of, make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue
from tfx_pipeline.run_fns.pair_figures import pair_figures
from tfx_pipeline.run_fns.pairs import Pairs, read_pairs
from tfx_pipeline.run_fns.places import checkpoints_of, features_of, model_run_folder


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `csft` settings and the catalogue's folder."""
    config = from_mapping(CsftConfig, fn_args.custom_config["csft"])
    seeded(config.training)
    with make_strategy(config.training).scope():
        encoder, words = ItemEncoder.load_from(Path(fn_args.base_model) / ENCODER_FOLDER)
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"])
    files = fn_args.train_files, fn_args.eval_files
    train, valid, table = read_pairs(files, catalogue, ContentReader(encoder.config, words))
    items = len(catalogue.item_id)
    # kept where they stay as they are; else they serve this once
    features = features_of(fn_args).features(table, encoder) if config.frozen_towers else table.features(encoder)
    before = pair_figures(table.joint(encoder, features), valid, train, items)
    logs = model_run_folder(fn_args.model_run_dir)
    checkpoints = checkpoints_of(fn_args, "csft")
    tune(encoder, config, train, table, features, catalogue.categories, logs, checkpoints)
    tuned = features if config.frozen_towers else table.features(encoder)
    after = pair_figures(table.joint(encoder, tuned), valid, train, items)
    log.info("csft: held-out pairs %s, stage 1 %s", after, before)
    (logs / "recall.json").write_text(json.dumps({"trained": after, "stage_1": before}, indent=2))
    export_encoder(encoder, words, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))
    forget(checkpoints[0])


def tune(
    encoder: ItemEncoder,
    config: CsftConfig,
    pairs: Pairs,
    table: ContentTable,
    features: dict[str, np.ndarray],
    categories: list[list[str]],
    logs: Path | None = None,
    checkpoints: tuple[Path, object] | None = None,
) -> None:
    """Trains the encoder on pairs.

    Args:
        encoder: Of stage 1, or as it comes.
        config: Of stage 2.
        pairs: Of the training split.
        table: The content that their rows name.
        features: What the towers say of it.
        categories: Of the table's first rows, the catalogue.
        logs: Where the curves go.
        checkpoints: See `fit`.

    Raises:
        ConfigError: no two pairs are of `config.signal`, or a term is of hard negatives alone and there are none.
    """
    training, frozen = config.training, config.frozen_towers
    given, pairs = len(pairs), pairs.of_signal(config.signal, training.seed)
    if len(pairs) < 2:
        raise ConfigError(
            f"stage 2 needs at least 2 training pairs whose signal is csft.signal ({config.signal}) or stronger; "
            f"received {len(pairs)} of {given} pairs. Bring intents that have it, or choose a weaker one."
        )
    positives = ItemsOfKeys.of(pairs.key, pairs.item_row)
    if config.same_category:
        pairs = pairs.with_same_category(categories, config.same_category, training.seed)
    pairs = pairs.without_liked(positives)
    if any(term.pools == ("hard",) for term in config.all_terms) and (pairs.hard_rows == ABSENT).all():
        raise ConfigError(
            "a term of stage 2 with hard negatives alone needs some, and no pair has any. Set data.pairs.source to "
            "impressions and data.pairs.hard, or csft.same_category, or csft.signal, or choose other csft.levels."
        )
    if all("hard" not in term.pools for term in config.all_terms):
        pairs = replace(pairs, hard_rows=pairs.hard_rows[:, :0])  # nobody asks for them
    batches = _batches(pairs, None if frozen else table, config)
    share = np.bincount(pairs.item_row, minlength=len(table)) + 1.0
    with make_strategy(training).scope():
        if config.trainable == "residual":
            encoder.freeze_all_but_residuals()
        elif config.trainable != "all":
            encoder.freeze_towers(config.top_blocks)
        log_q = np.log(share / share.sum()).astype(np.float32)
        known = positives if config.known_positives else None
        model = Csft(encoder, config, log_q, features if frozen else None, pairs.query_rows.shape[1], known)
        make_ready(model, training, training.epochs * batches.steps)

    def vectors() -> np.ndarray:
        return table.joint(encoder, features) if frozen else table.encode(encoder)["joint"]

    watch = CollapseAlarm(vectors, config.max_cosine)
    fit("csft", model, batches, training, log_folder=logs, watch=watch, checkpoints=checkpoints)


def _batches(pairs: Pairs, content: ContentTable | None, config: CsftConfig) -> Epochs:
    """Batches of `Csft`'s input; with the rows' content, where the towers are trained."""
    training = config.training
    batch_size = batch_of(training, len(pairs))
    hard = min(config.hard, pairs.hard_rows.shape[1])
    items = pairs.query_rows.shape[1] + 1

    def read(pair: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> dict[str, Any]:
        """Of the hard negatives that PairGen found, others in every epoch."""
        rows, key = pair
        if pairs.hard_rows.shape[1] > hard:
            found = rows[:, items:]
            draw = tf.random.stateless_uniform(tf.shape(found), seed) - tf.cast(found == ABSENT, tf.float32)
            chosen = tf.gather(found, tf.math.top_k(draw, hard, sorted=False).indices, batch_dims=1)
            rows = tf.concat([rows[:, :items], chosen], axis=1)
        batch: dict[str, Any] = {"rows": rows, "key": key}
        if content is not None:
            flat = content.rows(tf.reshape(tf.maximum(rows, 0), [-1]))
            count = items + hard
            batch |= {
                name: tf.reshape(value, [tf.shape(rows)[0], count, *value.shape[1:]]) for name, value in flat.items()
            }
        return batch

    everything = tf.data.Dataset.from_tensor_slices((pairs.rows, pairs.key))
    steps = min(len(pairs) // batch_size, config.max_steps_per_epoch or len(pairs))

    def make(epoch: tf.Tensor) -> tf.data.Dataset:
        batches = shuffled(everything, len(pairs), epoch, batch_size).take(steps)
        return with_seeds(batches, epoch).map(read, tf.data.AUTOTUNE)

    return Epochs(make, training.seed, steps)
