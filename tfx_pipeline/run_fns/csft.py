"""Stage 2: pairs and the stage-1 encoder in, tuned encoder out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.config import ConfigError, CsftConfig, from_mapping
from mim_keras.layers import KnownPositives
from mim_keras.layers.base import PADDING_ROW
from mim_keras.models import Csft, ItemEncoder
from mim_keras.preprocessing.content import ContentDataset, ContentPreprocessor
from mim_keras.serving.signatures_encoder import CONTENT_BATCHES, ENCODER_FOLDER, export_encoder, load_encoder
from mim_keras.training.callbacks import CheckpointFiles, CollapseError, TerminateOnCollapse
from mim_keras.training.epoch_dataset import EpochDataset, shuffle_and_batch, zip_seeds
from mim_keras.training.run_training import TrainingRun, compile_model, log, run_training, set_seed_and_precision
from mim_keras.training.strategy import global_batch_size, make_strategy
from tfx_pipeline.run_fns.catalogue import Catalogue, cross_modal_recall
from tfx_pipeline.run_fns.pair_figures import overall_recall, pair_figures
from tfx_pipeline.run_fns.pairs import Pairs, read_pairs
from tfx_pipeline.run_fns.places import Checkpoints, model_run_folder, tower_features
from tfx_pipeline.run_fns.pretrain import encode_views


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `csft` settings and the catalogue's folder."""
    config = from_mapping(CsftConfig, fn_args.custom_config["csft"])

    def load() -> tuple[ItemEncoder, ContentPreprocessor]:
        set_seed_and_precision(config.training)
        with make_strategy(config.training).scope():
            return load_encoder(Path(fn_args.base_model) / ENCODER_FOLDER)

    encoder, preprocessor = load()
    catalogue = Catalogue.read(fn_args.custom_config["catalogue"], towers=preprocessor.config.embeddings)
    pair_files = fn_args.train_files, fn_args.eval_files
    train, valid, content = read_pairs(pair_files, catalogue, preprocessor)
    # cached where they stay as they are
    features = tower_features(fn_args, content, encoder) if config.frozen_towers else content.map(encoder.towers)
    held_out = np.pad(catalogue.held_out, (0, len(content) - len(catalogue.held_out)))

    def figures(encoder: ItemEncoder, features: dict[str, np.ndarray]) -> dict[str, Any]:
        views = encode_views(encoder, features)
        found = pair_figures(views["joint"], valid, train, len(catalogue.item_id))
        return {**found, "cross_modal": cross_modal_recall(content, views, held_out)}

    before = figures(encoder, features)
    logs = model_run_folder(fn_args.model_run_dir)
    checkpoints = Checkpoints(fn_args, "csft")
    rejected = ""
    for attempt in range(config.collapse_retries + 1):
        files = checkpoints.files._replace(folder=checkpoints.files.folder / f"attempt-{attempt}")
        try:
            tune(encoder, config, train, content, features, catalogue.categories, logs, files)
            rejected = ""
            break
        except CollapseError as error:
            rejected = str(error)
            log.warning("csft: attempt %d of %d: %s", attempt + 1, config.collapse_retries + 1, error)
            config, (encoder, preprocessor) = config.milder(), load()
    after = before
    if not rejected:
        tuned = features if config.frozen_towers else content.map(encoder.towers)
        after = figures(encoder, tuned)
        reached, earlier = overall_recall(after), overall_recall(before)
        if config.keep_if_better and reached < earlier:
            rejected = f"of the held-out pairs it finds {reached:.4f} (Recall@10), the encoder of stage 1 {earlier:.4f}"
            encoder, preprocessor = load()
    log.info("csft: held-out pairs %s, stage 1 %s", after, before)
    if rejected:
        log.warning("csft: the encoder of stage 1 is kept, since stage 2 does not improve it: %s", rejected)
    outcome = {"trained": after, "stage_1": before, "rejected": rejected}
    (logs / "recall.json").write_text(json.dumps(outcome, indent=2))
    export_encoder(encoder, preprocessor, Path(fn_args.serving_model_dir), catalogue.contents(max(CONTENT_BATCHES)))
    checkpoints.delete()


def tune(
    encoder: ItemEncoder,
    config: CsftConfig,
    pairs: Pairs,
    content: ContentDataset,
    features: dict[str, np.ndarray],
    categories: list[list[str]],
    logs: Path | None = None,
    checkpoints: CheckpointFiles | None = None,
) -> None:
    """Trains the encoder on pairs.

    Args:
        encoder: Of stage 1, or untrained.
        config: Of stage 2.
        pairs: Of the training split.
        content: Row r of the pairs is content r − 1.
        features: Tower features of it.
        categories: Of the first contents, the catalogue.
        logs: Where the curves go.
        checkpoints: See `TrainingRun`.

    Raises:
        CollapseError: the embeddings no longer separate items.
        ConfigError: no two pairs are of `config.min_signal`, or a term has hard negatives only and there are none.
    """
    training, frozen = config.training, config.frozen_towers
    pairs, positives = _usable(pairs, config, categories)
    batches = _batches(pairs, None if frozen else content, config)
    count = np.bincount(pairs.item_row, minlength=len(content) + 1) + 1.0
    share = count / count[1:].sum()
    with make_strategy(training).scope():
        if config.trainable == "residual":
            encoder.freeze_all_but_adapters()
        elif config.trainable != "all":
            encoder.freeze_towers(config.unfreeze_top_blocks, config.lora_rank)
        model = Csft(encoder, config, len(content), pairs.query_rows.shape[1])
        model.set_data(
            with_padding_row(features) if frozen else None,
            np.log(share).astype(np.float32),
            positives if config.mask_known_positives else None,
        )
        compile_model(model, training, training.epochs * batches.steps)

    def embeddings() -> np.ndarray:
        return encode_views(encoder, features)["joint"] if frozen else content.map(encoder)["joint"]

    callbacks = [TerminateOnCollapse(embeddings, config.collapse_threshold)]
    run = TrainingRun("csft", training.epochs, callbacks=callbacks, log_folder=logs, checkpoint=checkpoints)
    run_training(model, batches, run)


def with_padding_row(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tower features with a row of zeros in front, as rows from 1 name them."""
    return {name: np.concatenate([np.zeros_like(values[:1]), values]) for name, values in features.items()}


def _usable(pairs: Pairs, config: CsftConfig, categories: list[list[str]]) -> tuple[Pairs, KnownPositives]:
    """The pairs that the settings train on, with their hard negatives; and what is known to be positive."""
    given, pairs = len(pairs), pairs.of_signal(config.min_signal, config.training.seed)
    if len(pairs) < 2:
        raise ConfigError(
            f"stage 2 needs at least 2 training pairs whose signal is csft.min_signal ({config.min_signal}) or "
            f"stronger; received {len(pairs)} of {given} pairs. Bring intents that have it, or choose a weaker one."
        )
    positives = KnownPositives.from_pairs(pairs.key, pairs.item_row)
    if config.num_same_category_negatives:
        pairs = pairs.with_same_category(categories, config.num_same_category_negatives, config.training.seed)
    pairs = pairs.without_liked(positives)
    hard_only = any(term.negatives == ("hard",) for term in config.all_terms)
    if hard_only and (pairs.hard_rows == PADDING_ROW).all():
        raise ConfigError(
            "a term of stage 2 with hard negatives only needs some, and no pair has any. Set data.pairs.source to "
            "impressions and data.pairs.hard, or csft.num_same_category_negatives, or csft.min_signal, or choose "
            "another csft.loss_preset."
        )
    if not config.uses("hard"):
        pairs = replace(pairs, hard_rows=pairs.hard_rows[:, :0])
    return pairs, positives


def _batches(pairs: Pairs, content: ContentDataset | None, config: CsftConfig) -> EpochDataset:
    """Batches of `Csft`'s inputs; with the rows' content, where the towers are trained."""
    training = config.training
    batch_size = global_batch_size(training, len(pairs))
    hard = min(config.num_hard_negatives, pairs.hard_rows.shape[1])

    def read(pair: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, Any]:
        """Samples hard negatives of those that a pair has, others in every epoch."""
        batch: dict[str, Any] = dict(pair)
        given = pair["hard_negative_rows"]
        if pairs.hard_rows.shape[1] > hard:
            uniform = tf.random.stateless_uniform(tf.shape(given), seed) - tf.cast(given == PADDING_ROW, tf.float32)
            sampled = tf.math.top_k(uniform, hard, sorted=False).indices
            batch["hard_negative_rows"] = tf.gather(given, sampled, batch_dims=1)
        if content is not None:
            parts = [pair["query_rows"], pair["item_row"][:, None], batch["hard_negative_rows"]]
            rows = tf.concat(parts, axis=1)
            flat = content.gather(tf.reshape(tf.maximum(rows - 1, 0), [-1]))
            shape = tf.shape(rows)[0], pairs.query_rows.shape[1] + 1 + hard
            batch |= {name: tf.reshape(value, [*shape, *value.shape[1:]]) for name, value in flat.items()}
        return batch

    everything = tf.data.Dataset.from_tensor_slices(pairs.inputs)
    steps = min(len(pairs) // batch_size, config.max_steps_per_epoch or len(pairs))

    def make(seed: tf.Tensor) -> tf.data.Dataset:
        batches = shuffle_and_batch(everything, len(pairs), seed, batch_size).take(steps)
        return zip_seeds(batches, seed).map(read, tf.data.AUTOTUNE)

    return EpochDataset(make, training.seed, steps)
