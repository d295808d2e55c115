"""Two rankers side by side, each of which reads a part of an item's vector."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import CiubmConfig
from mim_keras.encoders.normalise import normalise
from mim_keras.item_table import ItemColumns
from mim_keras.training.stage_model import StageModel


class RankerEnsemble(StageModel):
    """The mean of the logits of two `CiUBM`s: one reads the first `config.ensemble_at` numbers of an item's vector, the
    other those behind them, each part at length one.

    Views of content err apart, so that the mean of two rankers is better than the better one, which one network over
    both views is not.  Each learns from its own error; gradients are clipped together.

    Arguments and call are those of `CiUBM`, but for `likeness`: each compares the vectors that it reads.  Returns
    `ctr` and `logit`, [B] each, and `members`, what each ranker returned.

    Source: ours; measured in docs/experiments.md.
    """

    def __init__(self, config: CiubmConfig, shape: RankerShape, columns: ItemColumns, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.members = [CiUBM(config, shape, part) for part in columns.split(config.ensemble_at)]
        self.loss_tracker = keras.metrics.Mean("logloss")

    @property
    def vector_dim(self) -> int:
        """Numbers in an item's vector."""
        return sum(member.vector_dim for member in self.members)

    def has_vector(self, rows: Any) -> Any:
        """Whether items have a vector, bool, in the shape of `rows`."""
        first, second = (member.has_vector(rows) for member in self.members)
        return ops.logical_or(first, second)

    def encode_history(self, rows: Any, ages: Any | None) -> dict[str, Any]:
        """What the history says to each, before any target is known; see `CiUBM.encode_history`."""
        return {"members": [member.encode_history(rows, ages) for member in self.members]}

    def score(
        self,
        history: dict[str, Any],
        item_row: Any,
        user_index: Any,
        context: Any | None = None,
        item_vector: Any | None = None,
    ) -> dict[str, Any]:
        """Scores targets against encoded histories; see `CiUBM.score`."""
        return _mean(
            [
                member.score(own, item_row, user_index, context, **given)
                for member, own, given in zip(self.members, history["members"], self._parts(item_vector), strict=True)
            ]
        )

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        others = {name: value for name, value in inputs.items() if name not in ("item_vector", "likeness")}
        own = [{**others, **given} for given in self._parts(inputs.get("item_vector"))]
        return _mean([member(x, training=training) for member, x in zip(self.members, own, strict=True)])

    def _parts(self, vector: Any | None) -> list[dict[str, Any]]:
        """What is given to each of vectors [B, d]; of one that is given, no part is the table's."""
        if vector is None:
            return [{}, {}]
        at, given = self.config.ensemble_at, ops.any(vector != 0, axis=-1)
        parts = [vector[:, :at], vector[:, at:]]
        return [{"item_vector": normalise(part), "vector_given": given} for part in parts]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        label = ops.reshape(ops.cast(y, "float32"), (-1, 1))
        error = keras.losses.binary_crossentropy(label, y_pred["logit"][:, None], from_logits=True)
        self.loss_tracker.update_state(ops.mean(error))
        return sum(
            member.compute_loss(x, y, own, training=training)
            for member, own in zip(self.members, y_pred["members"], strict=True)
        )

    def learn_jointly(self, on: bool) -> None:
        """See `CiUBM.learn_jointly`."""
        for member in self.members:
            member.learn_jointly(on)

    def keyed_tables(self) -> dict[str, list[Any]]:
        """See `CiUBM.keyed_tables`; the tables of both."""
        first, second = (member.keyed_tables() for member in self.members)
        return {name: [*tables, *second[name]] for name, tables in first.items()}


def _mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    logit = (found[0]["logit"] + found[1]["logit"]) / 2
    return {"ctr": ops.sigmoid(logit), "logit": logit, "members": found}


Ranker = CiUBM | RankerEnsemble


def make_ranker(config: CiubmConfig, shape: RankerShape, columns: ItemColumns) -> Ranker:
    """The ranker of these settings: one `CiUBM`, or two where `config.ensemble_at` is not 0."""
    return (RankerEnsemble if config.ensemble_at else CiUBM)(config, shape, columns)
