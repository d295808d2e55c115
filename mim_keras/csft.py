"""Stage 2, C-SFT: content-interest-aware fine-tuning of the encoder on behaviour, by contrast."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import CsftConfig
from mim_keras.contrast.info_nce import alignment_loss, info_nce
from mim_keras.contrast.negative_queue import EMPTY, NegativeQueue
from mim_keras.encoders.item_encoder import Content, ItemEncoder, Views
from mim_keras.training.replicas import share_of


class Csft(keras.Model):
    """InfoNCE of pairs (query, item) over in-batch and time negatives, and a share of stage 1's alignment.

    L = L_pair + w_0 · L_align; negatives are the other items of the batch and the queue of earlier batches.
    A candidate that is the query's own item, or the item of the same query elsewhere in the batch, is no
    negative.  Candidates are corrected for popularity (logQ).

    Args:
        encoder: Trained in place.
        config: Temperature, queue, weights.
        log_q: Log of the share of pairs that each content row is the item of, float [rows]; for logQ.

    Trains on a mapping: `query` and `item` (each `Content`, or cached features when the towers are frozen),
    `query_row` and `item_row` (int [B], rows of the content table; equal rows are equal content).
    """

    def __init__(self, encoder: ItemEncoder, config: CsftConfig, log_q: np.ndarray, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder, self.config = encoder, config
        self.scale = 1.0 / config.temperature
        self.log_q = self.add_weight(shape=log_q.shape, initializer="zeros", trainable=False, name="log_q")
        self.log_q.assign(log_q)
        self.queue = NegativeQueue(config.queue_size, encoder.config.embedding_dim) if config.queue_size else None
        if self.queue is not None:
            self.queue.build()
        self.log_align_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(math.log(1 / 0.07)), name="log_align_scale"
        )
        self.hit_tracker = keras.metrics.Mean("hit_at_1")

    def call(self, pair: dict[str, Any], training: bool = False) -> dict[str, Views]:
        batch = ops.shape(pair["item_row"])[0]
        content: Content = {
            name: ops.concatenate([pair["query"][name], pair["item"][name]], axis=0) for name in pair["item"]
        }
        if training and self.config.modality_dropout:
            content = self._hide_a_modality(content, 2 * batch)
        views = self.encoder.embed(content) if "image_features" in content else self.encoder(content)
        return {
            "query": {name: vector[:batch] for name, vector in views.items()},
            "item": {name: vector[batch:] for name, vector in views.items()},
        }

    def _hide_a_modality(self, content: Content, rows: Any) -> Content:
        """Hides the picture or the words of some rows that have both, so that each can stand alone."""
        draw = keras.random.uniform((rows,))
        both = content["image_mask"] * content["text_mask"]
        rate = self.config.modality_dropout / 2
        hide_image = both * ops.cast(draw < rate, "float32")
        hide_text = both * ops.cast(draw > 1 - rate, "float32")
        return {
            **content,
            "image_mask": content["image_mask"] * (1 - hide_image),
            "text_mask": content["text_mask"] * (1 - hide_text),
        }

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        query, item = y_pred["query"]["joint"], y_pred["item"]["joint"]
        query_row, item_row = ops.cast(x["query_row"], "int32"), ops.cast(x["item_row"], "int32")
        candidates, candidate_rows = item, item_row
        if self.queue is not None:
            candidates = ops.concatenate([item, ops.cast(self.queue.vectors, item.dtype)], axis=0)  # (B + Q, d)
            candidate_rows = ops.concatenate([item_row, ops.convert_to_tensor(self.queue.rows)], axis=0)
        logits = ops.matmul(query, ops.transpose(candidates)) * self.scale  # (B, B + Q)
        if self.config.log_q:
            logits = logits - ops.take(self.log_q, ops.maximum(candidate_rows, 0))[None, :]
        own = ops.arange(ops.shape(item)[0])
        blocked = self._unfair(query_row, item_row, candidate_rows)
        loss = info_nce(logits, own, blocked)
        self.hit_tracker.update_state(self._hits(logits, blocked, own))
        if self.config.align_weight:
            views = y_pred["item"]
            both = ops.cast(ops.any(views["image"] != 0, axis=-1) & ops.any(views["text"] != 0, axis=-1), "float32")
            scale = ops.exp(ops.minimum(self.log_align_scale, math.log(100.0)))
            loss = loss + self.config.align_weight * alignment_loss(views["image"], views["text"], both, scale)
        if self.queue is not None and training:
            self.queue.push(item, item_row)
        return share_of(loss)

    @staticmethod
    def _unfair(query_row: Any, item_row: Any, candidate_rows: Any) -> Any:
        """True where a candidate is no negative of a query, bool [B, N]."""
        same_item = item_row[:, None] == candidate_rows[None, :]
        itself = query_row[:, None] == candidate_rows[None, :]
        empty = ops.broadcast_to(candidate_rows[None, :] == EMPTY, ops.shape(same_item))
        # the item of any row of this batch that has the same query, wherever it stands among the candidates
        same_query = ops.cast(query_row[:, None] == query_row[None, :], "float32")  # (B, B)
        positive_of_query = ops.matmul(same_query, ops.cast(same_item, "float32")) > 0  # (B, N)
        return same_item | itself | empty | positive_of_query

    @staticmethod
    def _hits(logits: Any, blocked: Any, own: Any) -> Any:
        fair = ops.where(ops.logical_and(blocked, ops.one_hot(own, ops.shape(logits)[1]) < 0.5), -1e9, logits)
        return ops.cast(ops.argmax(fair, axis=-1) == ops.cast(own, "int32"), "float32")
