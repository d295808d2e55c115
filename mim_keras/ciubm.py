"""Stage 3, CiUBM: the content-interest-aware user behaviour model that predicts the click."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import keras_rs
from keras import ops

from mim_keras.config import CiubmConfig
from mim_keras.embedding_table import EmbeddingTable, rows_of
from mim_keras.interest.activation_unit import ActivationUnit
from mim_keras.interest.history_attention import attend
from mim_keras.interest.long_history import CosineSearch, looked_up
from mim_keras.interest.masked import dot, in_one_piece, means
from mim_keras.interest.modal_attention import ModalAttention
from mim_keras.interest.sa_ta import SemanticAwareTargetAttention
from mim_keras.interest.sim_tier import SimTier
from mim_keras.interest.target_attention import TargetAttention
from mim_keras.item_table import PADDING_ROW, ItemColumns, ItemTable
from mim_keras.training.replicas import share_of
from mim_keras.training.stage_model import StageModel

AGE_BUCKETS = 32  # an age of s seconds falls in bucket ⌊log2(s + 1)⌋
CATEGORY_DIM = 8
CONTEXT_DIM = 8


@dataclass(frozen=True)
class RankerShape:
    """Sizes that come from the data.

    Attributes:
        users: Rows of the user embedding; row 0 is shared by the users not learned.
        context: Values of each categorical context feature, in the features' order.
    """

    users: int
    context: tuple[int, ...] = ()


class CiUBM(StageModel):
    """ids and content of a user's history against a target item → probability of a click.

    Every interest is a part of its own: the mean of what was clicked and its product with the target, by ids and by
    content; attention by ids, by content and by both; the histogram of likenesses.  Attention looks at the whole
    history, or at the part of it that a search finds to be most like the target.  A cross network and a deep one,
    side by side, make the logit of them.

    The history is encoded once (`encode_history`) and may be shared by many targets (`score`).

    Args:
        config: Widths, and which modules take part.
        shape: Sizes that come from the data.
        columns: What is known of every item.

    Call takes a mapping: `item_row` int [B], `history_rows` int [B, L] (0 is padding), `history_ages` int [B, L]
    (seconds; needed where the settings have `tells_ages`), `user_index` int [B], and `context` int [B, C] where the
    shape has context features; optionally `item_vector` float [B, d], used instead of the table's vector,
    `vector_given` bool [B] (see `score`), and `hide_id` bool [B] and `likeness` [B, L] (see `training.batches`).
    Returns `ctr`, `logit` and, where the modal module is on, `modal_logit`, each [B].

    Source: MIM (2502.00321); the modules' forms as each of them says.
    """

    def __init__(self, config: CiubmConfig, shape: RankerShape, columns: ItemColumns, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.shape = config, shape
        dense = keras.layers.Dense
        self.items = ItemTable(columns)
        self.category_projection = dense(CATEGORY_DIM, use_bias=False)
        if config.tells_ages:
            self.recency = EmbeddingTable(AGE_BUCKETS, config.attends, "zeros")
        self.context_embeddings = [EmbeddingTable(values, CONTEXT_DIM) for values in shape.context]
        if config.ids:
            self.id_embedding = EmbeddingTable(self.items.ids, config.id_dim, _small())
            self.history_id_embedding = EmbeddingTable(self.items.ids, config.id_dim, _small())
            self.user_embedding = EmbeddingTable(shape.users, config.id_dim, _small())
            if config.attention:
                kind = ActivationUnit if config.activation_unit else TargetAttention
                self.id_attention = kind(config.id_dim)
        if config.modal:
            self.compression = dense(config.modal_dim, use_bias=False)
            self.modal_head = keras.Sequential([dense(32, activation="gelu"), dense(1)])
            if config.attention:
                self.modal_attention = ModalAttention(config.modal_dim)
            if config.simtier:
                self.sim_tier = SimTier(config.simtier_bins)
            if config.search:
                self.search = CosineSearch(config.search)
            if config.fusion:
                self.fused_attention = SemanticAwareTargetAttention(config.heads, config.id_dim)
        self.crosses = [keras_rs.layers.FeatureCross(projection_dim=32) for _ in range(config.cross_layers)]
        self.hidden = [dense(width, activation="relu", kernel_initializer="he_normal") for width in config.hidden]
        self.dropouts = [keras.layers.Dropout(config.dropout) for _ in config.hidden]
        self.out = dense(1)
        # Whether all is trained, or (0) the modal branch alone; see `training.modal_epochs`.
        self.joint = self.add_weight(shape=(), initializer="ones", trainable=False, name="joint")
        self.loss_tracker = keras.metrics.Mean("logloss")
        self._build_attention()
        self._compressed = config.modal_dim if config.modal else 0  # of a click's features, the first so many

    def _build_attention(self) -> None:
        """Attention is asked in steps, not called, so that nothing builds it by itself."""
        config, clicks = self.config, (None, None)
        ids = config.id_dim if config.ids else 0
        target, click = (None, ids + CATEGORY_DIM), (None, None, ids + CATEGORY_DIM)
        compressed = (None, None, config.modal_dim)
        if config.ids and config.attention:
            self.id_attention.build(target, click, clicks)
        if config.modal and config.attention:
            self.modal_attention.build((None, config.modal_dim), compressed, click, clicks, clicks)
        if config.modal and config.fusion:
            self.fused_attention.build(target, click, clicks, clicks)

    # -- the two halves of a prediction -------------------------------------------------------------------

    def encode_history(self, rows: Any, ages: Any | None, compared: bool = False) -> dict[str, Any]:
        """What the history says before any target is known.

        Args:
            rows: int [H, L]; 0 is padding.
            ages: Seconds since each click, int [H, L]; None where the settings have nothing that reads them.
            compared: Whether the targets' likenesses to the clicks are known already.
        """
        config = self.config
        mask = rows != PADDING_ROW
        clicks = self._of_clicks(rows)  # (H, L, P + D)
        history = {"clicks": clicks, "mask": mask}
        if config.tells_ages:
            bucket = ops.floor(ops.log2(ops.cast(ops.maximum(ages, 0), "float32") + 1.0))
            history["recency"] = self.recency(ops.cast(ops.minimum(bucket, AGE_BUCKETS - 1), "int32"))
        if config.modal:
            history["has_vector"] = ops.logical_and(mask, ops.take(self.items.has_vector, rows, axis=0))
            mean, compressed_mean = means([mask, history["has_vector"]], clicks)
            history |= {"mean": mean[:, self._compressed :], "compressed_mean": compressed_mean[:, : self._compressed]}
            if config.compares and not compared:
                history["vector"] = self.items.of("vectors", rows)
        else:
            history["mean"] = means([mask], clicks)[0]
        return history

    def _of_clicks(self, rows: Any) -> Any:
        """What is learned of each clicked item, side by side: its compressed vector, its id, its categories.

        Of the whole item table first, where that is less work; the rows are then looked up, and their gradients added
        up, once for all.
        """
        batch, length = rows.shape
        whole = batch is not None and length is not None and self.items.rows <= batch * length
        wanted = None if whole else rows
        parts = []
        if self.config.modal:
            parts.append(self.compression(self.items.of("vectors", wanted)))
        if self.config.ids:
            id_index = self.items.id_index if whole else ops.take(self.items.id_index, rows, axis=0)
            parts.append(self.history_id_embedding(ops.convert_to_tensor(id_index)))
        parts.append(self.category_projection(self.items.of("categories", wanted)))
        # in one piece: the gradient is then added up over all clicks at once, not for each of the parts
        learned = ops.concatenate(parts, axis=-1)
        return rows_of(learned, rows) if whole else in_one_piece(learned)

    def score(
        self,
        history: dict[str, Any],
        item_row: Any,
        user_index: Any,
        context: Any | None = None,
        item_vector: Any | None = None,
        hide_id: Any | None = None,
        likeness: Any | None = None,
        training: bool = False,
        vector_given: Any | None = None,
    ) -> dict[str, Any]:
        """Scores B targets against encoded histories.

        Args:
            history: From `encode_history`, with H = B or H = 1.
            item_row: int [B].
            user_index: int [H].
            context: int [H, C].
            item_vector: float [B, d] of length one, instead of the table's.
            vector_given: bool [B], which of these count; where it is left out, those that are not zero.  A row that
                counts and is zero is an item without a vector.
            hide_id: bool [B]; true makes a target's id unknown, so that the rest of the model has to rank it.
            likeness: Cosines of each target and its clicks, [B, L], where they are known already; see `likenesses`.
        """
        config = self.config
        found = self.items(item_row)
        # What the parts that attend look at; a search leaves less of it.
        mask, looked_at, recency = history["mask"], history["clicks"], history.get("recency")
        target = [self.category_projection(found["categories"])]
        many = ops.log(1.0 + ops.sum(ops.cast(mask, "float32"), axis=1, keepdims=True))
        shared = [history["mean"], ops.cast(many, history["mean"].dtype)]  # (H, ·): the same for every target
        parts = []
        if config.ids:
            id_index = found["id_index"] if hide_id is None else ops.where(hide_id, 0, found["id_index"])
            own, user = self.id_embedding(id_index), self.user_embedding(user_index)
            liked = history["mean"][:, : config.id_dim]
            target.insert(0, own)
            parts.append(own * liked)  # (B, id_dim)
            parts += [ops.sum(own * one, axis=-1, keepdims=True) for one in (liked, user)]
            shared.append(user)
        e_t = ops.concatenate(target, axis=-1)  # (B, D_t)
        parts.append(e_t)
        result = {}
        modal, attentions = [], []  # attentions: layer, queries, likenesses, positions that count
        if config.modal:
            modal, similarity, counts = self._likeness(history, found, item_vector, vector_given, likeness)
            if config.search:
                places = self.search(similarity, mask)
                mask, looked_at, counts = (looked_up(values, places) for values in (mask, looked_at, counts))
                recency = None if recency is None else looked_up(recency, places)
                similarity = ops.take_along_axis(similarity, places, axis=1)
            if config.attention:
                queries = self.modal_attention.ask(modal[0], further=looked_at.shape[-1] - self._compressed)
                attentions.append((self.modal_attention, queries, similarity, counts))
            if config.fusion:
                attentions.append((self.fused_attention, self.fused_attention.ask(e_t), similarity, mask))
        if config.ids and config.attention and not config.activation_unit:
            attentions.append((self.id_attention, self.id_attention.ask(e_t), None, mask))
        elif config.ids and config.attention:
            parts.append(self.id_attention(e_t, looked_at[..., self._compressed :], mask))
        answers = attend(attentions, looked_at, recency) if attentions else []
        if config.modal:
            if config.attention:
                modal.append(answers.pop(0))
            result["modal_logit"] = self.modal_head(ops.concatenate(modal, axis=-1))[:, 0]
        parts += modal + answers
        for position, layer in enumerate(self.context_embeddings):
            assert context is not None
            shared.append(layer(context[:, position]))
        together = ops.concatenate(shared, axis=-1)
        parts.append(ops.broadcast_to(together, (ops.shape(e_t)[0], together.shape[-1])))
        x = x0 = ops.concatenate(parts, axis=-1)
        for cross in self.crosses:
            x = cross(x0, x)
        deep = x0
        for layer, dropout in zip(self.hidden, self.dropouts, strict=True):
            deep = dropout(layer(deep), training=training)
        logit = ops.cast(self.out(ops.concatenate([x, deep], axis=-1))[:, 0], "float32")
        return {"ctr": ops.sigmoid(logit), "logit": logit, **result}

    def _likeness(
        self,
        history: dict[str, Any],
        found: dict[str, Any],
        item_vector: Any | None,
        vector_given: Any | None,
        likeness: Any | None,
    ) -> tuple:
        """Content's features of each target, [B, ·] each, the compressed vector first; and, where parts compare, its
        likeness to every click, [B, L], and where both have a vector, bool [B, L]."""
        config, vector, has_vector = self.config, found["vector"], found["has_vector"]
        if item_vector is not None:
            there = ops.any(item_vector != 0, axis=-1)
            given = there if vector_given is None else vector_given
            vector = ops.where(given[:, None], ops.cast(item_vector, vector.dtype), vector)
            has_vector = ops.where(given, there, has_vector)
        present = ops.cast(has_vector, vector.dtype)[:, None]
        p_t = self.compression(vector) * present
        liked = history["compressed_mean"]
        features, similarity, counts = [p_t, ops.broadcast_to(liked, ops.shape(p_t)), p_t * liked, present], None, None
        if config.compares:
            beforehand = "vector" not in history
            similarity = ops.cast(likeness, vector.dtype) if beforehand else dot(vector, history["vector"])
            counts = ops.logical_and(history["has_vector"], has_vector[:, None])
            if config.simtier:
                features.append(self.sim_tier(similarity, counts))
        return features, similarity, counts

    @property
    def vector_dim(self) -> int:
        """Numbers in an item's vector."""
        return self.items.dim

    def has_vector(self, rows: Any) -> Any:
        """Whether items have a vector, bool, in the shape of `rows`."""
        return ops.take(self.items.has_vector, rows, axis=0)

    def learn_jointly(self, on: bool) -> None:
        """Whether all is trained, or the modal branch alone by its own loss."""
        self.joint.assign(float(on))

    def keyed_tables(self) -> dict[str, list[Any]]:
        """Variables whose rows stand for things of the data: `category`, `item`, `user`, `context 0`, …"""
        tables = {"category": [self.category_projection.kernel]}
        if self.config.ids:
            tables["item"] = [self.id_embedding.embeddings, self.history_id_embedding.embeddings]
            tables["user"] = [self.user_embedding.embeddings]
        return tables | {f"context {i}": [layer.embeddings] for i, layer in enumerate(self.context_embeddings)}

    # -- Keras ---------------------------------------------------------------------------------------------

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        likeness = inputs.get("likeness") if "item_vector" not in inputs else None
        history = self.encode_history(inputs["history_rows"], inputs.get("history_ages"), likeness is not None)
        return self.score(
            history,
            inputs["item_row"],
            inputs["user_index"],
            inputs.get("context"),
            inputs.get("item_vector"),
            inputs.get("hide_id"),
            likeness,
            training=training,
            vector_given=inputs.get("vector_given"),
        )

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        label = ops.reshape(ops.cast(y, "float32"), (-1,))
        loss = ops.mean(keras.losses.binary_crossentropy(label[:, None], y_pred["logit"][:, None], from_logits=True))
        self.loss_tracker.update_state(loss)
        joint = ops.convert_to_tensor(self.joint)
        loss = loss * joint
        if "modal_logit" in y_pred and (self.config.auxiliary_weight or self.config.modal_epochs):
            modal = ops.cast(y_pred["modal_logit"], "float32")[:, None]
            auxiliary = keras.losses.binary_crossentropy(label[:, None], modal, from_logits=True)
            weight = joint * self.config.auxiliary_weight + (1 - joint)
            loss = loss + weight * ops.mean(auxiliary)
        if training and self.config.ids and self.config.id_l2:
            tables = (self.id_embedding, self.history_id_embedding, self.user_embedding)
            loss = loss + joint * self.config.id_l2 * sum(_held_small(table.embeddings) for table in tables)
        if training and self.config.modal and self.config.content_l2:
            # a random vector of length one is compressed to one whose square is, on average:
            squared = ops.sum(ops.square(self.compression.kernel)) / self.compression.kernel.shape[0]
            loss = loss + self.config.content_l2 * squared
        return share_of(loss)


def _held_small(table: Any) -> Any:
    """0, with the gradient of the sum of all squares: to add up what the reported loss can do without took a thirtieth
    of a step."""

    @ops.custom_gradient
    def held(values: Any) -> tuple[Any, Any]:
        def gradient(*arguments: Any, upstream: Any = None) -> Any:
            return 2.0 * values * (arguments[0] if upstream is None else upstream)

        return ops.zeros((), values.dtype), gradient

    return held(ops.convert_to_tensor(table))


def _small() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.05)
