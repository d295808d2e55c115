"""One of two processes that train all three stages together; writes its weights to the file it is told.

    workers_script.py OUT.npz STRATEGY [CHECKPOINTS [STAGE]]

With STAGE the process kills itself in the middle of that stage's second epoch.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import ContrastTerm, CsftConfig, TrainingConfig, preset
from mim_keras.contrast.items_of_keys import ItemsOfKeys
from mim_keras.csft import Csft
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.item_table import ItemColumns
from mim_keras.pretrain import Pretraining
from mim_keras.training.batches import Epochs, shuffled
from mim_keras.training.checkpoints import forget
from mim_keras.training.fit import fit
from mim_keras.training.strategy import make_strategy

logging.basicConfig(level=logging.INFO)
BATCH, ROWS = 16, 32
out, strategy_name, checkpoints, dies_in = [*sys.argv[1:], "", ""][:4]
training = TrainingConfig(epochs=2, strategy=strategy_name)
strategy = make_strategy(training)  # first of all: the workers find one another before anything else is done
keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
config = preset("tiny")
losses = []


class Dies(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(stage: str, model: keras.Model, examples: object) -> None:
    rows = tf.data.Dataset.from_tensor_slices(examples)
    batches = Epochs(lambda seed: shuffled(rows, ROWS, seed, BATCH), training.seed, ROWS // BATCH)
    place = (Path(checkpoints) / stage, stage) if checkpoints else None
    watch = Dies() if stage == dies_in else None
    losses.extend(fit(stage, model, batches, training, watch=watch, checkpoints=place)["loss"])
    if place:
        forget(place[0])


with strategy.scope():
    encoder = ItemEncoder(config.encoder, TextReader.fit(config.encoder, ["red mug", "blue lamp"])[0])
    encoder.build()
    pretraining = Pretraining(encoder, config.pretrain)
    pretraining.compile(optimizer=keras.optimizers.SGD(0.05), jit_compile=False)
size = config.encoder.image.size
content = {
    "image": rng.uniform(size=(ROWS, size, size, 3)).astype("float32"),
    "image_mask": np.ones(ROWS, "float32"),
    "token_ids": rng.integers(1, 8, (ROWS, 12)).astype("int32"),
    "token_mask": np.ones((ROWS, 12), bool),
    "text_mask": np.ones(ROWS, "float32"),
}
train("pretrain", pretraining, content)
aligned = [variable.numpy() for variable in encoder.trainable_variables]
encoder.set_weights([0 * weight + 0.05 for weight in encoder.get_weights()])

features = {
    "image_features": rng.normal(size=(40, 32)).astype("float32"),
    "text_features": rng.normal(size=(40, 16)).astype("float32"),
    "image_mask": np.ones(40, "float32"),
    "text_mask": np.ones(40, "float32"),
}
terms = (ContrastTerm(pools=("space", "time", "hard")),)
settings = CsftConfig(terms=terms, queue_size=24, align_weight=0.3, modality_dropout=0.0, temperature=0.2)
rows = rng.integers(0, 40, (ROWS, 5)).astype(np.int32)
key = rng.integers(0, 20, ROWS).astype(np.int32)
liked = ItemsOfKeys.of(key, rows[:, 2])
with strategy.scope():
    encoder.freeze_towers()
    heads = np.random.default_rng(1)
    for variable in encoder.trainable_variables:
        variable.assign(heads.normal(size=variable.shape) * 0.1)
    csft = Csft(encoder, settings, np.zeros(40, "float32"), features, query_items=2, positives=liked)
    csft.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
train("csft", csft, {"rows": rows, "key": key})

vectors = rng.integers(-20, 20, (10, 8)).astype(np.int8)
columns = ItemColumns.assemble(vectors, np.ones(10, bool), [[]] * 10, np.arange(1, 11))
keras.utils.set_random_seed(2)
with strategy.scope():
    ranker = CiUBM(config.ciubm, RankerShape(users=3), columns)
    ranker.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
x = {
    "item_row": rng.integers(1, 11, ROWS),
    "history_rows": rng.integers(0, 11, (ROWS, 8)),
    "history_ages": rng.integers(0, 1000, (ROWS, 8)),
    "user_index": rng.integers(0, 3, ROWS),
}
train("ciubm", ranker, (x, rng.integers(0, 2, ROWS).astype("float32")))

trained = aligned + [variable.numpy() for model in (csft, ranker) for variable in model.trainable_variables]
queue = [csft.queues["joint"].vectors.numpy(), csft.queues["joint"].rows.numpy()]
arrays = {f"trained{i}": value for i, value in enumerate([*trained, *queue])}
np.savez(out, losses=np.array(losses), **arrays)
