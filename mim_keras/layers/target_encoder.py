"""The target item: id embedding, attribute embedding, projected content embedding."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from mim_keras.layers.base import ABSENT, check_rank
from mim_keras.layers.item_table import ItemParts


class EncodedTarget(NamedTuple):
    """B encoded targets.  Without ids `id_embedding` is None, without content the three of content are.

    Attributes:
        features: Id embedding and attribute embedding, [B, D].
        id_embedding: [B, id_dim].
        content: Projected content embedding, [B, P]; zeros without content.
        has_content: bool [B].
        embedding: Content embedding before the projection, [B, d].
        attributes: Codes of the attributes, int [B, slots].
    """

    features: Any
    id_embedding: Any = None
    content: Any = None
    has_content: Any = None
    embedding: Any = None
    attributes: Any = None


@keras.saving.register_keras_serializable("mim")
class TargetEncoder(ItemParts, keras.layers.Layer):
    """Item rows → `EncodedTarget`.

    The parts are layers that a `HistoryEncoder` may share, all built.

    Args:
        item_table: What is known of the items.
        attribute_embedding: `AttributeEmbedding` of the attributes.
        id_embedding: Embedding of the ids; None for a ranker without ids.
        content_projection: Dense layer over the content embeddings; None for a ranker without content.

    Call arguments:
        item_row: int [B].
        item_embedding: Content embeddings that replace the table's, float [B, d]; None for the table's.
        use_item_embedding: bool [B], which rows of `item_embedding` count; None: those that are not zero.  A row that
            counts and is zero is an item without content.
        item_attributes: Codes of attributes that replace the table's, int [B, slots]; a negative one keeps the
            table's.  None for the table's.
        drop_id: bool [B], true masks the id of a target; None masks none.

    Example:
        >>> import keras, numpy as np
        >>> from mim_keras.layers import AttributeEmbedding, ItemTable, ItemTableData, TargetEncoder
        >>> data = ItemTableData.from_items(np.eye(4, dtype="f4"), np.ones(4, bool), [["a"], [], [], []], np.arange(4))
        >>> encoder = TargetEncoder(ItemTable.from_data(data), AttributeEmbedding(2, 8), keras.layers.Embedding(5, 16))
        >>> encoder(np.array([1, 2, 3])).features.shape
        TensorShape([3, 24])
    """

    def build(self, item_row_shape: Any) -> None:
        check_rank(self, "item_row", item_row_shape, "batch")
        self.build_parts()

    def call(
        self,
        item_row: Any,
        item_embedding: Any = None,
        use_item_embedding: Any = None,
        item_attributes: Any = None,
        drop_id: Any = None,
    ) -> EncodedTarget:
        item = self.item_table(item_row)
        if item_attributes is not None:
            kept = ops.where(item_attributes < 0, item.attributes, ops.cast(item_attributes, item.attributes.dtype))
            item = item._replace(attributes=kept)
        attributes = ops.cast(self.attribute_embedding(item.attributes), self.compute_dtype)
        features, id_embedding = [attributes], None
        if self.id_embedding is not None:
            id_index = item.id_index if drop_id is None else ops.where(drop_id, 0, item.id_index)
            id_embedding = ops.cast(self.id_embedding(id_index), self.compute_dtype)
            features.insert(0, id_embedding)
        target = EncodedTarget(ops.concatenate(features, axis=-1), id_embedding, attributes=item.attributes)
        if self.content_projection is None:
            return target
        embedding, has_content = item.embedding, item.has_embedding
        if item_embedding is not None:
            is_nonzero = ops.any(item_embedding != 0, axis=-1)
            override = is_nonzero if use_item_embedding is None else use_item_embedding
            embedding = ops.where(override[:, None], ops.cast(item_embedding, embedding.dtype), embedding)
            has_content = ops.where(override, is_nonzero, has_content)
        content = ops.cast(self.content_projection(embedding), self.compute_dtype)
        content = content * ops.cast(has_content, content.dtype)[:, None]
        embedding = ops.cast(embedding, self.compute_dtype)
        return target._replace(content=content, has_content=has_content, embedding=embedding)

    def compute_output_shape(self, item_row_shape: Any) -> EncodedTarget:
        batch, dim = item_row_shape[0], self.attribute_embedding.units
        shape = EncodedTarget((batch, dim), ABSENT, ABSENT, ABSENT, ABSENT, (batch, sum(self.item_table.slots)))
        if self.id_embedding is not None:
            id_dim = self.id_embedding.output_dim
            shape = shape._replace(features=(batch, dim + id_dim), id_embedding=(batch, id_dim))
        if self.content_projection is None:
            return shape
        content, embedding = (batch, self.content_projection.units), (batch, self.item_table.embedding_dim)
        return shape._replace(content=content, has_content=(batch,), embedding=embedding)
