"""Stage 2, C-SFT: content-interest-aware fine-tuning of the encoder on behaviour, by contrast."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import ContrastTerm, CsftConfig
from mim_keras.contrast.candidates import Candidates, positives_of
from mim_keras.contrast.info_nce import alignment_loss, fair_logits, info_nce
from mim_keras.contrast.items_of_keys import ABSENT, ItemsOfKeys
from mim_keras.contrast.momentum import Followers
from mim_keras.contrast.negative_queue import NegativeQueue
from mim_keras.contrast.space import gather_from_replicas
from mim_keras.encoders.item_encoder import Content, ItemEncoder, Views
from mim_keras.encoders.normalise import normalise
from mim_keras.training.replicas import share_of
from mim_keras.training.stage_model import StageModel

_USUAL_BATCH = 1024  # taken for granted where a graph does not say


class Csft(StageModel):
    """Contrast of pairs: what a user meant or had clicked, against the item it led to.

    L = Σ_l w_l · L_l + w_0 · L_align, one L_l for each of the settings' terms: InfoNCE between a view of the query and
    a view of the item, over chosen pools of negatives, on the first so many dimensions.  The pools: `batch`, the items
    of the other pairs; `space`, those of all replicas; `time`, a queue of earlier batches' items; `hard`, what the
    pair itself names (seen and not clicked, say).  A candidate that is one of the query's own items, or a known
    positive of its key, is no negative, in whichever shared pool it stands.  Candidates of the shared pools are
    corrected for popularity (logQ).

    The queue holds vectors as they were computed, or, with `momentum`, as an encoder computes them that follows the
    trained one slowly.  A query of several items, a history, is the mean of their views, turned by a learned map into
    what is looked for.

    Args:
        encoder: Trained in place.
        config: Terms, temperature, queue, weights.
        log_q: Log of the share of pairs that each content row is the item of, float [rows]; for logQ.
        features: Of every content row, as `ItemEncoder.features` gives them; for frozen towers.  Else the content
            of each pair comes with it.
        query_items: L, how many items a query has at most.
        positives: Of all training pairs.  Without them, what is known of a key are the items of the pairs of the same
            step, and what the queue holds may be an earlier positive of it.

    Trains on a mapping: `rows` int [B, L + 1 + K], rows of the content table: the query's items, the item, the hard
    negatives; `ABSENT` where there are fewer.  `key` int [B]: pairs of one key share their positives.  Without
    `features`, the content of these rows too, each [B, L + 1 + K, ...].

    Source: C-SFT of MIM (2502.00321); pools of negatives as in MOON (2511.11305).
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        config: CsftConfig,
        log_q: np.ndarray,
        features: dict[str, np.ndarray] | None = None,
        query_items: int = 1,
        positives: ItemsOfKeys | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder, self.config, self.query_items = encoder, config, query_items
        self.features = {name: self._frozen(name, values) for name, values in (features or {}).items()}
        self.log_q = self._frozen("log_q", log_q)
        self.positives = None
        if positives is not None:
            offsets, liked = self._frozen("offsets", positives.offsets), self._frozen("liked", positives.rows)
            self.positives = positives_of(offsets, liked, positives.most)
        self.log_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(math.log(1 / config.temperature)), name="log_scale"
        )
        self.seekers = {}
        if query_items > 1:
            self.seekers = {view: Seeker(name=f"seeker_{view}") for view in {t.query for t in config.all_terms}}
            for seeker in self.seekers.values():
                seeker.build((None, encoder.config.embedding_dim))
        self.queues = {}
        if config.queue_size:
            views = {term.item for term in config.all_terms if "time" in term.pools}
            self.queues = {view: NegativeQueue(config.queue_size, encoder.config.embedding_dim) for view in views}
            for queue in self.queues.values():
                queue.build()
        self.followers = None
        if self.queues and config.momentum:
            self.followers = Followers(encoder.trainable_variables, config.momentum)
        if config.align_weight:
            self.log_align_scale = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(math.log(1 / 0.07)), name="log_align_scale"
            )
        self.chance = keras.random.SeedGenerator(
            config.training.seed
        )  # of its own, so that a checkpoint holds its state
        self.hit_tracker = keras.metrics.Mean("hit_at_1")

    def _frozen(self, name: str, values: np.ndarray) -> Any:
        weight = self.add_weight(
            shape=values.shape, dtype=str(values.dtype), initializer="zeros", trainable=False, name=name
        )
        weight.assign(values)
        return weight

    # -- vectors -------------------------------------------------------------------------------------------

    def call(self, pairs: dict[str, Any], training: bool = False) -> dict[str, Views]:
        """Views of the `query` [B, d], the `item` [B, d] and the `hard` negatives [B, K, d], those that terms use."""
        rows = ops.cast(pairs["rows"], "int32")
        views = self._views_of_rows(pairs, rows, training)
        length = self.query_items
        present = ops.cast(rows[:, :length] != ABSENT, "float32")[..., None]  # (B, L, 1)
        query = {}
        for name in sorted({term.query for term in self.config.all_terms}):
            vectors = views[name]
            mean = ops.sum(vectors[:, :length] * ops.cast(present, vectors.dtype), axis=1)
            mean = mean / ops.cast(ops.maximum(ops.sum(present, axis=1), 1.0), vectors.dtype)
            query[name] = self.seekers[name](mean) if name in self.seekers else mean
        items = {term.item for term in self.config.all_terms}
        near = {term.item for term in self.config.all_terms if "hard" in term.pools}
        if self.config.align_weight:
            items |= {"image", "text"}
        return {
            "query": query,
            "item": {name: views[name][:, length] for name in sorted(items)},
            "hard": {name: views[name][:, length + 1 :] for name in sorted(near)},
        }

    def _views_of_rows(self, pairs: dict[str, Any], rows: Any, training: bool) -> Views:
        """Each view of every row, [B, M, d]."""
        batch, count = ops.shape(rows)[0], rows.shape[1]
        places, project = ops.maximum(rows, 0), self.encoder.embed
        # The whole table is projected where that is less work than the rows of the batch, one by one.
        whole = bool(self.features) and self.log_q.shape[0] <= (rows.shape[0] or _USUAL_BATCH) * count
        if not self.features:
            content = {name: value for name, value in pairs.items() if name not in ("rows", "key")}
            content = {name: ops.reshape(value, (-1, *value.shape[2:])) for name, value in content.items()}
            project = self.encoder
        elif whole:
            content = {name: ops.convert_to_tensor(value) for name, value in self.features.items()}
        else:
            flat = ops.reshape(places, (-1,))
            content = {name: ops.take(value, flat, axis=0) for name, value in self.features.items()}
        views: Views = project(self._hide_a_modality(content) if training else content)
        if whole:
            return {name: ops.take(value, places, axis=0) for name, value in views.items()}
        return {name: ops.reshape(value, (batch, count, -1)) for name, value in views.items()}

    def _hide_a_modality(self, content: Content) -> Content:
        """Hides the picture or the words of some rows that have both, so that each can stand alone."""
        if not self.config.modality_dropout:
            return content
        draw = keras.random.uniform(ops.shape(content["image_mask"]), seed=self.chance)
        both = content["image_mask"] * content["text_mask"]
        rate = self.config.modality_dropout / 2
        hide_image = both * ops.cast(draw < rate, both.dtype)
        hide_text = both * ops.cast(draw > 1 - rate, both.dtype)
        return {
            **content,
            "image_mask": content["image_mask"] * (1 - hide_image),
            "text_mask": content["text_mask"] * (1 - hide_text),
        }

    # -- losses --------------------------------------------------------------------------------------------

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        rows, key = ops.cast(x["rows"], "int32"), ops.cast(x["key"], "int32")
        item_row = rows[:, self.query_items]
        query_rows, size = rows[:, : self.query_items], self.log_q.shape[0]
        candidates = Candidates(query_rows, item_row, key, y_pred["item"], self.queues, size, self.positives)
        loss = 0.0
        for position, term in enumerate(self.config.all_terms):
            logits, blocked = self._logits(term, rows, y_pred, candidates)
            own = ops.zeros_like(item_row)
            if position == 0:
                fair = fair_logits(logits, own, blocked)
                self.hit_tracker.update_state(ops.cast(ops.argmax(fair, axis=-1) == 0, "float32"))
            loss = loss + term.weight * info_nce(logits, own, blocked)
        if self.config.align_weight:
            views = y_pred["item"]
            both = ops.cast(ops.any(views["image"] != 0, axis=-1) & ops.any(views["text"] != 0, axis=-1), "float32")
            scale = ops.exp(ops.minimum(self.log_align_scale, math.log(100.0)))
            image, text, both = (gather_from_replicas(values) for values in (views["image"], views["text"], both))
            loss = loss + self.config.align_weight * alignment_loss(image, text, both, scale)
        if training:
            keys = self._keys(x, candidates)
            for view, queue in self.queues.items():
                queue.push(keys[view], candidates.everywhere("row"))
        return share_of(loss)

    def _keys(self, pairs: dict[str, Any], candidates: Candidates) -> Views:
        """The items' views that the queues are to hold, [all replicas' B, d]."""
        if self.followers is None:
            return {view: candidates.everywhere(view) for view in self.queues}
        self.followers.follow()
        item = slice(self.query_items, self.query_items + 1)
        own = {name: value if name == "key" else value[:, item] for name, value in pairs.items()}
        with self.followers.in_place(self.variables):
            views = self._views_of_rows(own, ops.cast(own["rows"], "int32"), training=False)
        return {view: gather_from_replicas(views[view][:, 0]) for view in self.queues}

    def _logits(
        self, term: ContrastTerm, rows: Any, y_pred: dict[str, Views], candidates: Candidates
    ) -> tuple[Any, Any]:
        """Logits [B, 1 + N + K], of each query's item first, and who is no fair negative, bool [B, 1 + N + K]."""
        size = term.dimension or self.encoder.config.embedding_dim
        query, item = _prefix(y_pred["query"][term.query], size), _prefix(y_pred["item"][term.item], size)
        query_rows, item_row = rows[:, : self.query_items], rows[:, self.query_items]
        scale = ops.cast(ops.exp(ops.minimum(self.log_scale, math.log(100.0))), "float32")
        own_q = ops.take(self.log_q, item_row)[:, None] if self.config.log_q else 0.0
        logits = [ops.cast(ops.sum(query * item, axis=-1, keepdims=True), "float32") * scale - own_q]
        blocked = [ops.zeros_like(item_row[:, None], dtype="bool")]
        pools = tuple(pool for pool in term.pools if pool != "hard" and (pool != "time" or self.queues))
        if pools:
            others = _prefix(candidates.vectors(term.item, pools), size)
            far = ops.cast(ops.matmul(query, ops.transpose(others)), "float32") * scale  # (B, N)
            if self.config.log_q:
                far = far - ops.take(self.log_q, ops.maximum(candidates.rows(pools), 0))[None, :]
            logits.append(far)
            blocked.append(candidates.unfair(pools))
        if "hard" in term.pools and rows.shape[1] > self.query_items + 1:
            hard_rows = rows[:, self.query_items + 1 :]  # (B, K)
            hard = _prefix(y_pred["hard"][term.item], size)
            # corrected as if drawn as often as the item, so that the two are compared as they are
            logits.append(ops.cast(ops.sum(query[:, None, :] * hard, axis=-1), "float32") * scale - own_q)
            no_negative = ops.logical_or(hard_rows == ABSENT, hard_rows == item_row[:, None])
            itself = ops.any(hard_rows[..., None] == query_rows[:, None, :], axis=-1)
            blocked.append(ops.logical_or(no_negative, itself))
        return ops.concatenate(logits, axis=1), ops.concatenate(blocked, axis=1)


@keras.saving.register_keras_serializable("mim")
class Seeker(keras.layers.Layer):
    """Mean of a history's vectors [B, d] → what is looked for, [B, d]: A x + b, at first x itself.

    b is what everyone looks for: the direction in which items are better liked by all.
    """

    def build(self, shape: tuple) -> None:
        self.turn = self.add_weight(shape=(shape[-1], shape[-1]), initializer="identity", name="turn")
        self.common = self.add_weight(shape=(shape[-1],), initializer="zeros", name="common")

    def call(self, mean: Any) -> Any:
        return ops.matmul(mean, self.turn) + self.common

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape


def _prefix(vectors: Any, size: int) -> Any:
    """The first `size` dimensions; shorter than all, scaled to length one again (Matryoshka, 2205.13147)."""
    if size == vectors.shape[-1]:
        return vectors
    return normalise(vectors[..., :size])
