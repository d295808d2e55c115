"""Rankers side by side, whose logits are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mim_keras.config import CiubmConfig
from mim_keras.layers import ItemTable, ItemTableData
from mim_keras.models.ciubm import CiUBM, Outputs, Ranker, VocabularySizes, click_loss, probabilities
from mim_keras.ops.normalization import l2_normalize


@keras.saving.register_keras_serializable("mim")
class RankerEnsemble(Ranker):
    """The mean of the logits of several `CiUBM`s.

    With `config.ensemble_split_dim` there are two.  One reads the first dimensions of an item's content embedding, the
    other the rest, each L2-normalised.  Errors of different views of content differ, so that the mean is better than
    the better ranker, which one network over both views is not.  With `config.ensemble_size` members differ
    in their random initial weights alone.  Each is trained on its own loss; gradients are clipped
    together.

    Args:
        config: Of all.
        vocabulary_sizes: Of all.
        item_tables: One for each.

    Call arguments:
        inputs: As `CiUBM`, without `similarity`.

    Returns:
        `ctr` [B, 1], further labels by name, and of the members `ctr_0`, `ctr_1`, …, `content_ctr_0`, ….

    Example:
        >>> import numpy as np
        >>> from dataclasses import replace
        >>> from mim_keras.config import preset
        >>> from mim_keras.layers import ItemTableData
        >>> from mim_keras.models import VocabularySizes, make_ranker
        >>> data = ItemTableData.from_items(np.eye(6, dtype="float32"), np.ones(6, bool), [["a"]] * 6, np.arange(6))
        >>> config = replace(preset("tiny").ciubm, ensemble_split_dim=4)
        >>> make_ranker(config, VocabularySizes(users=10), data).item_embedding_dim
        6

    Source: measured in docs/experiments.md.
    """

    config_parts = ("item_tables",)

    def __init__(
        self,
        config: CiubmConfig,
        vocabulary_sizes: VocabularySizes,
        item_tables: Sequence[ItemTable],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config, self.vocabulary_sizes, self.item_tables = config, vocabulary_sizes, list(item_tables)
        self.members = [
            CiUBM(config, vocabulary_sizes, table, name=f"member_{index}", dtype=self.dtype_policy)
            for index, table in enumerate(item_tables)
        ]
        self.build_from_signature()

    def build(self, input_shape: Any = None) -> None:
        self.built = True  # the members built themselves

    def encode_history(self, rows: Any, ages: Any = None) -> list[Any]:
        """Encodes histories for each member; see `CiUBM.encode_history`."""
        return [member.encode_history(rows, ages) for member in self.members]

    def score(
        self,
        history: list[Any],
        item_row: Any,
        user_index: Any,
        context: Any = None,
        item_embedding: Any = None,
        **options: Any,
    ) -> Outputs:
        """Scores targets against encoded histories; see `CiUBM.score`."""
        parts = zip(self.members, history, self._split_embedding(item_embedding), strict=True)
        return self._average_logits(
            [
                member.score_logits(encoded, item_row, user_index, context, **options, **part)
                for member, encoded, part in parts
            ]
        )

    def call(self, inputs: dict[str, Any], training: bool = False) -> Outputs:
        inputs = self.check_inputs(inputs)
        shared = {name: value for name, value in inputs.items() if name not in ("item_embedding", "similarity")}
        embedding = inputs.get("item_embedding")
        parts = zip(self.members, self._split_embedding(embedding, inputs.get("use_item_embedding")), strict=True)
        return self._average_logits([member.call_logits({**shared, **part}, training) for member, part in parts])

    def _split_embedding(self, embedding: Any, override: Any = None) -> list[dict[str, Any]]:
        """The inputs of each member for embeddings [B, d]; one that is given replaces the table's in all parts.

        Where `override` bool [B] is None, those that are not zero do.
        """
        if embedding is None:
            return [{} for _ in self.members]
        split = self.config.ensemble_split_dim
        override = ops.any(embedding != 0, axis=-1) if override is None else override
        if not split:
            return [{"item_embedding": embedding, "use_item_embedding": override} for _ in self.members]
        parts = [embedding[:, :split], embedding[:, split:]]
        return [{"item_embedding": l2_normalize(part), "use_item_embedding": override} for part in parts]

    def _average_logits(self, members: list[Outputs]) -> Outputs:
        means = {
            name: sum(ops.cast(logits[name], "float32") for logits in members) / len(members)
            for name in self.config.label_outputs.values()
        }
        by_member = {f"{name}_{index}": logit for index, logits in enumerate(members) for name, logit in logits.items()}
        return probabilities(means | by_member)

    def default_losses(self) -> dict[str, Any]:
        return {f"{n}_{i}": click_loss() for i, one in enumerate(self.members) for n in one.default_losses()}

    def default_loss_weights(self) -> dict[str, float]:
        return {f"{n}_{i}": w for i, one in enumerate(self.members) for n, w in one.default_loss_weights().items()}

    @property
    def num_rows(self) -> int:
        return self.members[0].num_rows

    @property
    def item_embedding_dim(self) -> int:
        """Width of the content embeddings that the rankers read."""
        parts = self.members if self.config.ensemble_split_dim else self.members[:1]
        return sum(member.item_embedding_dim for member in parts)

    @property
    def attribute_slots(self) -> int:
        return self.members[0].attribute_slots

    def has_embedding(self, rows: Any) -> Any:
        """Whether items have a content embedding, bool, in the shape of `rows`."""
        first, *rest = (member.has_embedding(rows) for member in self.members)
        for one in rest:
            first = ops.logical_or(first, one)
        return first

    def layers_outside_content_head(self) -> list[keras.layers.Layer]:
        """See `CiUBM.layers_outside_content_head`."""
        return [layer for member in self.members for layer in member.layers_outside_content_head()]

    def shared_row_tables(self) -> list[Any]:
        """See `CiUBM.shared_row_tables`."""
        return [table for member in self.members for table in member.shared_row_tables()]

    def vocabulary_tables(self) -> dict[str, list[Any]]:
        """See `CiUBM.vocabulary_tables`; the tables of all members."""
        tables: dict[str, list[Any]] = {}
        for member in self.members:
            for name, variables in member.vocabulary_tables().items():
                tables.setdefault(name, []).extend(variables)
        return tables


def make_ranker(config: CiubmConfig, vocabulary_sizes: VocabularySizes, data: ItemTableData) -> Ranker:
    """The ranker of these settings: a `CiUBM`, or a `RankerEnsemble` where `config.is_ensemble`.

    Raises:
        TypeError: `data` is no `ItemTableData`.
    """
    if not isinstance(data, ItemTableData):
        rule = "make_ranker reads an ItemTableData"
        raise TypeError(f"{rule}; received {type(data).__name__}. Pass an ItemTable to CiUBM itself.")
    if not config.is_ensemble:
        return CiUBM(config, vocabulary_sizes, ItemTable.from_data(data))
    split = config.ensemble_split_dim
    parts = data.split_dims(split) if split else [data] * config.ensemble_size
    return RankerEnsemble(config, vocabulary_sizes, [ItemTable.from_data(part) for part in parts])
