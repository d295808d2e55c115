"""One of two processes that train all three stages together.  Writes its weights to OUT.npz.

    workers_script.py OUT.npz STRATEGY [CHECKPOINTS [STAGE]]

With STAGE the process kills itself in the second epoch of that stage.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from mim_keras.config import CsftConfig, InfoNCETerm, TrainingConfig, preset
from mim_keras.layers import KnownPositives
from mim_keras.models import Csft, ImageTextAlignment
from mim_keras.optimizers import RowwiseAdam
from mim_keras.training.callbacks.checkpoint import delete_checkpoint
from mim_keras.training.epoch_dataset import EpochDataset, shuffle_and_batch
from mim_keras.training.run_training import TrainingRun, run_training
from mim_keras.training.strategy import make_strategy
from tests.mim_keras import tiny

logging.basicConfig(level=logging.INFO)
BATCH, ROWS = 16, 32
out, strategy_name, checkpoints, killed_in = [*sys.argv[1:], "", ""][:4]
training = TrainingConfig(epochs=2, strategy=strategy_name)
strategy = make_strategy(training)  # before anything else: the workers connect to each other
keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
losses: list[float] = []


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(stage: str, model: keras.Model, examples: object) -> None:
    rows = tf.data.Dataset.from_tensor_slices(examples)
    batches = EpochDataset(lambda seed: shuffle_and_batch(rows, ROWS, seed, BATCH), training.seed, ROWS // BATCH)
    checkpoint = (Path(checkpoints) / stage, stage) if checkpoints else None
    callbacks = [Kill()] if stage == killed_in else []
    run = TrainingRun(stage, training.epochs, callbacks=callbacks, checkpoint=checkpoint)
    losses.extend(run_training(model, batches, run)["loss"])
    if checkpoint:
        delete_checkpoint(checkpoint[0])


with strategy.scope():
    encoder, _ = tiny.tiny_encoder()
    alignment = ImageTextAlignment(encoder, preset("tiny").pretrain)
    alignment.compile(optimizer=keras.optimizers.SGD(0.05), jit_compile=False)
train("pretrain", alignment, tiny.encoder_inputs(ROWS))
aligned = [variable.numpy() for variable in encoder.trainable_variables]

features = tiny.random_features(rng, 41)
settings = CsftConfig(
    terms=(InfoNCETerm(negatives=("cross_replica", "queue", "hard")),),
    queue_size=24, align_weight=0.3, modality_dropout=0.0, temperature=0.2, training=TrainingConfig(batch_size=BATCH),
)  # fmt: skip
pairs = {
    "query_rows": rng.integers(1, 41, (ROWS, 2)).astype(np.int32),
    "item_row": rng.integers(1, 41, ROWS).astype(np.int32),
    "hard_negative_rows": rng.integers(0, 41, (ROWS, 2)).astype(np.int32),
    "key": rng.integers(0, 20, ROWS).astype(np.int32),
}
with strategy.scope():
    encoder.freeze_towers()
    initial = np.random.default_rng(1)
    for variable in encoder.trainable_variables:
        variable.assign(initial.normal(size=variable.shape) * 0.1)
    csft = Csft(encoder, settings, num_items=40, query_length=2)
    csft.set_data(features, np.zeros(41, "float32"), KnownPositives.from_pairs(pairs["key"], pairs["item_row"]))
    csft.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
train("csft", csft, pairs)

with strategy.scope():
    ranker = tiny.any_ranker(replace(preset("tiny").ciubm, id_embedding_update="rowwise_adagrad"))
    # A large epsilon, since a quotient of two numbers near zero would magnify rounding errors.
    optimizer = RowwiseAdam(0.05, epsilon=1e-2, **ranker.rowwise_options())
    ranker.compile(optimizer=optimizer, jit_compile=False)
train("ciubm", ranker, (tiny.ranker_inputs(ROWS), rng.integers(0, 2, ROWS).astype("float32")))

queue = csft.queues["joint"]
trained = aligned + [variable.numpy() for model in (csft, ranker) for variable in model.trainable_variables]
trained += [queue.embeddings.numpy(), queue.item_rows.numpy()]
np.savez(out, losses=np.array(losses), **{f"trained{i}": value for i, value in enumerate(trained)})
