"""The history: what its behaviours are, before any target is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from mim_keras.layers.base import ABSENT, PADDING_ROW, MaskConsumingLayer, check_rank
from mim_keras.layers.embedding import float32_embedding
from mim_keras.layers.item_table import ItemParts, ItemTable
from mim_keras.ops.fused_attention import fusion_barrier, gather_float32
from mim_keras.ops.masking import masked_means

AGE_BUCKETS = 32


class EncodedHistory(NamedTuple):
    """H encoded histories of L behaviours.  Without content the three of content are None; `recency` may be, too.

    Attributes:
        behaviours: Projected content, id embedding and attribute embedding, side by side, [H, L, P + D].
        mask: bool [H, L], true at behaviours; padding is masked.
        mean: Mean of id and attribute embeddings, [H, D].
        recency: Added to the scores of each attention head, [H, L, heads].
        content_mask: bool [H, L], true at behaviours that have content.
        content_mean: Mean of the projected content, [H, P].
        embedding: Content embeddings before the projection, [H, L, d]; None where similarities are precomputed.
        attributes: Codes of the attributes, int [H, L, slots].
    """

    behaviours: Any
    mask: Any
    mean: Any
    recency: Any = None
    content_mask: Any = None
    content_mean: Any = None
    embedding: Any = None
    attributes: Any = None


@keras.saving.register_keras_serializable("mim")
class HistoryEncoder(ItemParts, MaskConsumingLayer):
    """Item rows and ages of a history → `EncodedHistory`.  Here padding is masked.

    The parts are layers that a `TargetEncoder` may share.

    Args:
        item_table: What is known of the items.
        attribute_embedding: `AttributeEmbedding` of the attributes.
        id_embedding: Embedding of the ids of behaviours; None for a ranker without ids.
        content_projection: Dense layer over the content embeddings; None for a ranker without content.
        recency_heads: Attention heads that read the age of a behaviour; 0: ages are not read.
        needs_embedding: Whether the unprojected content embeddings are needed.

    Call arguments:
        rows: int [H, L]; 0 is padding.
        ages: Seconds since each behaviour, int [H, L]; None where ages are not read.
        similarity_known: Whether the similarities to the targets are known, so that embeddings are not needed.

    Example:
        >>> import keras, numpy as np
        >>> from mim_keras.layers import AttributeEmbedding, HistoryEncoder, ItemTable, ItemTableData
        >>> data = ItemTableData.from_items(np.eye(4, dtype="f4"), np.ones(4, bool), [["a"], [], [], []], np.arange(4))
        >>> encoder = HistoryEncoder(ItemTable.from_data(data), AttributeEmbedding(2, 8), keras.layers.Embedding(5, 16))
        >>> encoder(np.array([[1, 2, 0]])).mask.numpy().tolist()
        [[True, True, False]]
    """

    config_names = ("recency_heads", "needs_embedding")

    def __init__(
        self,
        item_table: ItemTable,
        attribute_embedding: Any,
        id_embedding: Any = None,
        content_projection: Any = None,
        recency_heads: int = 0,
        needs_embedding: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(item_table, attribute_embedding, id_embedding, content_projection, **kwargs)
        self.recency_heads, self.needs_embedding = recency_heads, needs_embedding
        self.recency_embedding = None
        if recency_heads:
            self.recency_embedding = float32_embedding(AGE_BUCKETS, recency_heads, "recency_embedding", "zeros")
        self.content_dim = 0 if content_projection is None else content_projection.units

    def build(self, rows_shape: Any) -> None:
        check_rank(self, "rows", rows_shape, "histories length")
        self.build_parts()
        if self.recency_embedding is not None:
            self.recency_embedding.build((None, None))

    def call(self, rows: Any, ages: Any = None, similarity_known: bool = False) -> EncodedHistory:
        mask = ops.not_equal(rows, PADDING_ROW)
        behaviours = self._embed(rows)  # (H, L, P + D)
        recency = self._recency(ages)
        attributes = ops.take(self.item_table.attributes, rows, axis=0)
        if self.content_projection is None:
            mean = masked_means([mask], behaviours)[0]
            return EncodedHistory(behaviours, mask, mean, recency, attributes=attributes)
        content_mask = ops.logical_and(mask, ops.take(self.item_table.has_embedding, rows, axis=0))
        mean, content_mean = masked_means([mask, content_mask], behaviours)
        embedding = None
        if self.needs_embedding and not similarity_known:
            embedding = ops.cast(self.item_table(rows).embedding, self.compute_dtype)
        return EncodedHistory(
            behaviours,
            mask,
            mean[:, self.content_dim :],
            recency,
            content_mask,
            content_mean[:, : self.content_dim],
            embedding,
            attributes,
        )

    def _recency(self, ages: Any) -> Any:
        """An age of s seconds falls in bucket ⌊log2(s + 1)⌋."""
        if self.recency_embedding is None:
            return None
        if ages is None:
            raise ValueError(
                "ages of the history are needed, since ciubm.use_recency is true; received None. Give them."
            )
        bucket = ops.floor(ops.log2(ops.cast(ops.maximum(ages, 0), "float32") + 1.0))
        recency = self.recency_embedding(ops.cast(ops.minimum(bucket, AGE_BUCKETS - 1), "int32"))
        return ops.cast(recency, self.compute_dtype)

    def _embed(self, rows: Any) -> Any:
        """The learned features of each behaviour, side by side.

        Where the table has fewer rows than the batch has behaviours, the whole table is embedded and then looked up.
        """
        table, (batch, length) = self.item_table, rows.shape
        embed_table = batch is not None and length is not None and table.num_rows <= batch * length
        if embed_table:
            embeddings, attributes = table.all_embeddings(), ops.convert_to_tensor(table.attributes)
            id_index = ops.convert_to_tensor(table.id_index)
        else:
            embeddings, _, attributes, id_index = table(rows)
        parts = []
        if self.content_projection is not None:
            parts.append(self.content_projection(embeddings))
        if self.id_embedding is not None:
            parts.append(self.id_embedding(id_index))
        parts.append(self.attribute_embedding(attributes))
        features = ops.concatenate([ops.cast(part, self.compute_dtype) for part in parts], axis=-1)
        # The barrier: the gradient is summed over all behaviours at once, not for each of the parts.
        return gather_float32(features, rows) if embed_table else fusion_barrier(features)

    def compute_output_shape(self, rows_shape: Any) -> EncodedHistory:
        histories, length = rows_shape
        dim = self.attribute_embedding.units + (0 if self.id_embedding is None else self.id_embedding.output_dim)
        shape = EncodedHistory(
            behaviours=(histories, length, self.content_dim + dim),
            mask=(histories, length),
            mean=(histories, dim),
            recency=ABSENT,
            content_mask=ABSENT,
            content_mean=ABSENT,
            embedding=ABSENT,
            attributes=(histories, length, sum(self.item_table.slots)),
        )
        if self.recency_heads:
            shape = shape._replace(recency=(histories, length, self.recency_heads))
        if self.content_projection is None:
            return shape
        shape = shape._replace(content_mask=(histories, length), content_mean=(histories, self.content_dim))
        if self.needs_embedding:
            shape = shape._replace(embedding=(histories, length, self.item_table.embedding_dim))
        return shape
