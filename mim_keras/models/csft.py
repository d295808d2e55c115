"""Stage 2, C-SFT: content-interest-aware supervised fine-tuning of the encoder, by contrast."""

from __future__ import annotations

from typing import Any

import keras
import keras_rs
import numpy as np
from keras import ops

from mim_keras.config import CsftConfig, InfoNCETerm
from mim_keras.layers import (
    AuxiliaryData,
    KnownPositives,
    MomentumEncoder,
    NegativeQueue,
    Negatives,
    false_negative_mask,
)
from mim_keras.layers.base import PADDING_ROW
from mim_keras.layers.negatives import CrossReplicaNegatives, HardNegatives, InBatchNegatives, StepPairs
from mim_keras.layers.negatives.known_positives import lookup_positives
from mim_keras.losses import CLIPLoss, InfoNCE, mask_logits
from mim_keras.losses.temperature import add_log_logit_scale, alignment_logits, logit_scale
from mim_keras.models.base import StageModel
from mim_keras.models.item_encoder import Content, ItemEncoder, Views
from mim_keras.ops.distribution import all_gather
from mim_keras.ops.normalization import l2_normalize

ALIGN_TEMPERATURE = 0.07
POOLS: dict[str, Any] = {
    "in_batch": InBatchNegatives,
    "cross_replica": CrossReplicaNegatives,
    "hard": HardNegatives,
}
PAIR_INPUTS = ("query_rows", "item_row", "hard_negative_rows", "key")
_USUAL_BATCH = 1024  # assumed where a graph does not know the batch size


@keras.saving.register_keras_serializable("mim")
class Csft(StageModel):
    """Contrast of pairs: a query (what a user searched, or clicked before) against the item that it led to.

    L = Σ_t w_t · InfoNCE_t + w_align · L_align.  A term compares a view of the query with a view of the item, over
    pools of negatives, on the first dimensions or all.  A candidate that is an item of the query, or a known positive
    of its key, is masked in every shared pool (`false_negative_mask`).  Shared negatives are corrected for popularity
    (logQ). A query of several items is the mean of their views, projected by a learned matrix that starts as the
    identity.

    Items are rows of a content table; row 0 is padding.  Trains on a mapping:

    * `query_rows` int [B, L]: items of the query; 0 where it has fewer.
    * `item_row` int [B]: the item it led to.
    * `hard_negative_rows` int [B, K]: its hard negatives; 0 where it has fewer.
    * `key` int [B]: pairs of one key share their positives.
    * unless `set_data` got tower features: the encoder's inputs for these rows, [B, L + 1 + K, ...] each, in this
      order.

    Args:
        encoder: Trained in place.
        config: Terms, temperature, queue, weights.
        num_items: Rows of the content table, padding not counted.
        query_length: L.

    Returns:
        The views that terms use, `query_VIEW` and `item_VIEW` [B, d], `hard_negative_VIEW` [B, K, d].

    Example:
        >>> import numpy as np
        >>> from mim_keras.config import CsftConfig
        >>> from mim_keras.layers.towers import EmbeddingTower
        >>> from mim_keras.models import Csft, ItemEncoder
        >>> encoder = ItemEncoder(8, embedding_towers=[EmbeddingTower(4, column="clip", modality="image")])
        >>> model = Csft(encoder, CsftConfig(queue_size=0, align_weight=0.0), num_items=5)
        >>> features = {"image_features": np.random.rand(6, 4), "image_mask": np.ones(6), "text_mask": np.zeros(6)}
        >>> model.set_data({name: values.astype("float32") for name, values in features.items()})
        >>> pairs = {"query_rows": np.array([[1], [2]]), "item_row": np.array([3, 4]), "key": np.array([0, 1])}
        >>> model.compile(optimizer="adam")
        >>> sorted(model.fit({**pairs, "hard_negative_rows": np.zeros((2, 0), int)}, verbose=0).history)
        ['in_batch_top1_accuracy', 'loss']

    Source: C-SFT of MIM (2502.00321); pools of negatives as in MOON (2511.11305).
    """

    config_names = ("num_items", "query_length")
    config_parts = ("encoder",)
    config_settings = {"config": CsftConfig}

    def __init__(
        self, encoder: ItemEncoder, config: CsftConfig, num_items: int, query_length: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.encoder, self.config, self.num_items, self.query_length = encoder, config, num_items, query_length
        dim, terms = encoder.embedding_dim, config.all_terms
        if (widest := max(term.prefix_dim for term in terms)) > dim:
            raise ValueError(
                f"prefix_dim of a term is at most the width of a view, {dim}; received {widest}. Lower it."
            )
        self.item_views = sorted({term.item for term in terms} | ({"image", "text"} if config.align_weight else set()))
        self.hard_views = sorted({term.item for term in terms if "hard" in term.negatives})
        self.query_projections = {}
        if query_length > 1:
            self.query_projections = {
                view: keras.layers.Dense(dim, kernel_initializer="identity", name=f"{view}_query_projection")
                for view in sorted({term.query for term in terms})
            }
        self.pools = {name: make() for name, make in POOLS.items() if config.uses(name)}
        self.queues = {}
        if config.queue_size:
            views = sorted({term.item for term in terms if "queue" in term.negatives})
            self.queues = {view: NegativeQueue(config.queue_size, dim, name=f"{view}_queue") for view in views}
        has_momentum = bool(self.queues) and config.momentum > 0
        self.momentum_encoder = MomentumEncoder(encoder, config.momentum) if has_momentum else None
        self.mining: Any = None
        if config.num_hardest_negatives:
            self.mining = keras_rs.layers.HardNegativeMining(config.num_hardest_negatives, dtype="float32")
        self.features, self.statistics = AuxiliaryData(name="features"), AuxiliaryData(name="statistics")
        self.max_positives = 0
        self.seed_generator = keras.random.SeedGenerator(config.training.seed)  # a checkpoint holds its state
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("in_batch_top1_accuracy")
        self.build_from_signature()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.log_logit_scale = add_log_logit_scale(self, "log_logit_scale", self.config.temperature)
        if self.config.align_weight:
            self.log_alignment_logit_scale = add_log_logit_scale(self, "log_alignment_logit_scale", ALIGN_TEMPERATURE)
        self.features.build((None,))
        self.statistics.build((None,))
        for projection in self.query_projections.values():
            projection.build((None, self.encoder.embedding_dim))
        self.built = True

    def set_data(
        self,
        features: dict[str, np.ndarray] | None = None,
        log_q: np.ndarray | None = None,
        positives: KnownPositives | None = None,
    ) -> None:
        """Sets data that are not weights, in the strategy's scope; set them again after loading a model.

        Args:
            features: Of every row of the content table, padding included, from `ItemEncoder.towers`; for frozen towers.
                None: the content of each pair comes with it.
            log_q: Log of the share of pairs whose item a row is, float [num_items + 1], for logQ; None: no correction.
            positives: Of all training pairs; None: those of the same step.

        Raises:
            ValueError: the sizes do not belong together.
        """
        sizes = {name: len(values) for name, values in (features or {}).items()}
        sizes |= {} if log_q is None else {"log_q": len(log_q)}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"features and log_q must have one row an item and row 0 for padding; received {sizes} rows. Put a row "
                "of zeros before the first item."
            )
        if positives is not None and sizes and positives.values.max() >= min(sizes.values()):
            raise ValueError(
                f"positives must name rows below {min(sizes.values())}, the number of rows of features or log_q; "
                f"received row {positives.values.max()}. Rows count items from 1, and row 0 is padding."
            )
        self.features.set_data(features or {})
        statistics = {} if log_q is None else {"log_q": np.asarray(log_q, np.float32)}
        self.max_positives = 0
        if positives is not None:
            statistics |= {"row_splits": positives.row_splits, "values": positives.values}
            self.max_positives = positives.max_per_key
        self.statistics.set_data(statistics)

    # -- embeddings ----------------------------------------------------------------------------------------

    def call(self, pairs: Content, training: bool = False) -> Views:
        length = self.query_length
        self._check_inputs(pairs)
        rows = self._all_rows(pairs)
        views = self._views_of_rows(pairs, rows, training)  # [B, L + 1 + K, d] each
        mask = ops.cast(rows[:, :length] != PADDING_ROW, "float32")[..., None]  # (B, L, 1)
        count = ops.maximum(ops.sum(mask, axis=1), 1.0)
        query: Views = {}
        for view in sorted({term.query for term in self.config.all_terms}):
            total = ops.sum(views[view][:, :length] * ops.cast(mask, views[view].dtype), axis=1)
            mean = total / ops.cast(count, views[view].dtype)
            query[f"query_{view}"] = self.query_projections[view](mean) if view in self.query_projections else mean
        items = {f"item_{view}": views[view][:, length] for view in self.item_views}
        return {**query, **items, **{f"hard_negative_{view}": views[view][:, length + 1 :] for view in self.hard_views}}

    def _check_inputs(self, pairs: Content) -> None:
        missing = set(PAIR_INPUTS) - set(pairs)
        content = set() if self.features.names else set(self.encoder.input) - set(pairs)
        if missing or content:
            fix = "Give the content of all rows, or call set_data with tower features." if content else "Add them."
            needed = sorted(missing | content)
            raise ValueError(f"Csft needs {', '.join(needed)}; received {', '.join(sorted(pairs))}. {fix}")
        length = pairs["query_rows"].shape[1]
        if length != self.query_length:
            raise ValueError(
                f"`query_rows` must have query_length={self.query_length} columns; received {length}. Make the model "
                "with another query_length, or pad or cut the queries."
            )

    @staticmethod
    def _all_rows(pairs: Content) -> Any:
        parts = [pairs["query_rows"], ops.expand_dims(pairs["item_row"], 1), pairs["hard_negative_rows"]]
        return ops.concatenate([ops.cast(part, "int32") for part in parts], axis=1)  # (B, L + 1 + K)

    def _views_of_rows(self, pairs: Content, rows: Any, training: bool) -> Views:
        """Each view of rows [B, M] → [B, M, d]."""
        batch, count = ops.shape(rows)[0], rows.shape[1]
        if not self.features.names:
            content = {name: values for name, values in pairs.items() if name not in PAIR_INPUTS}
            content = {name: ops.reshape(values, (-1, *ops.shape(values)[2:])) for name, values in content.items()}
            views = self.encoder(self._modality_dropout(content) if training else content)
            return {name: ops.reshape(views[name], (batch, count, -1)) for name in ("image", "text", "joint")}
        # The whole table is projected where it has fewer rows than the batch.
        project_table = self.num_items < (rows.shape[0] or _USUAL_BATCH) * count
        if project_table:
            content = {name: self.features.all(name) for name in self.features.names}
        else:
            content = self.features(ops.reshape(rows, (-1,)))
        views = self.encoder.projection(self._modality_dropout(content) if training else content)
        if project_table:
            return {name: ops.take(view, rows, axis=0) for name, view in views.items()}
        return {name: ops.reshape(view, (batch, count, -1)) for name, view in views.items()}

    def _modality_dropout(self, content: Content) -> Content:
        """Masks one modality of some rows that have both, so that each is trained on its own."""
        rate = self.config.modality_dropout / 2
        if not rate:
            return content
        image_mask, text_mask = content["image_mask"], content["text_mask"]
        uniform = keras.random.uniform(ops.shape(image_mask), seed=self.seed_generator)
        both = image_mask * text_mask
        keep_image = 1 - both * ops.cast(uniform < rate, both.dtype)
        keep_text = 1 - both * ops.cast(uniform > 1 - rate, both.dtype)
        return {**content, "image_mask": image_mask * keep_image, "text_mask": text_mask * keep_text}

    # -- losses --------------------------------------------------------------------------------------------

    def default_losses(self) -> dict[str, Any]:
        losses = {f"term_{index}": InfoNCE() for index in range(len(self.config.all_terms))}
        return {**losses, **({"alignment": CLIPLoss()} if self.config.align_weight else {})}

    def default_loss_weights(self) -> dict[str, float]:
        weights = {f"term_{index}": term.weight for index, term in enumerate(self.config.all_terms)}
        return {**weights, **({"alignment": self.config.align_weight} if self.config.align_weight else {})}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        logits = {}
        masks: dict[tuple[str, ...], Any] = {}
        for index, term in enumerate(self.config.all_terms):
            logits[f"term_{index}"] = self._term_logits(term, x, y_pred, masks)
        positive = ops.zeros_like(x["item_row"])  # the positive is the first column
        labels = dict.fromkeys(logits, positive)
        self.accuracy.update_state(positive, logits["term_0"])
        weights = None if sample_weight is None else dict.fromkeys(logits, sample_weight)
        if self.config.align_weight:
            image, text = (y_pred[f"item_{view}"] for view in ("image", "text"))
            has = [ops.any(view != 0, axis=-1) for view in (image, text)]
            labels["alignment"] = all_gather(ops.cast(ops.logical_and(*has), "float32"))
            logits["alignment"] = alignment_logits(image, text, self.log_alignment_logit_scale)
            if weights is not None:
                weights["alignment"] = all_gather(sample_weight)
        if training:
            self._enqueue(x, y_pred)
        return super().compute_loss(x, labels, logits, weights, training)

    def _term_logits(self, term: InfoNCETerm, x: Content, y_pred: Views, masks: dict) -> Any:
        """Logits [B, 1 + N + K] of a term, the positive first; false negatives are masked."""
        dim = term.prefix_dim or self.encoder.embedding_dim
        query = matryoshka_prefix(y_pred[f"query_{term.query}"], dim)
        item = matryoshka_prefix(y_pred[f"item_{term.item}"], dim)
        scale = logit_scale(self.log_logit_scale)
        item_row = ops.cast(x["item_row"], "int32")
        item_log_q = self._log_q(item_row)[:, None]
        positive = ops.cast(ops.sum(query * item, axis=-1, keepdims=True), "float32") * scale - item_log_q
        logits = [positive]
        if shared := self._shared_negatives(term, y_pred[f"item_{term.item}"], item_row):
            embeddings = ops.concatenate([matryoshka_prefix(pool.embedding, dim) for pool in shared], axis=0)
            rows = ops.concatenate([pool.item_row for pool in shared], axis=0)
            similarity = ops.cast(ops.matmul(query, ops.transpose(embeddings)), "float32")  # (B, N)
            name = tuple(pool for pool in term.negatives if pool != "hard")
            if name not in masks:
                masks[name] = self._false_negatives(x, rows, "cross_replica" in term.negatives)
            logits.append(mask_logits(similarity * scale - self._log_q(rows)[None, :], masks[name]))
        if self.mining is not None and shared:
            one_hot = ops.concatenate([ops.ones_like(positive), ops.zeros_like(logits[1])], axis=1)
            mined, is_positive = self.mining(ops.concatenate(logits, axis=1), one_hot)
            logits = [positive, mask_logits(mined, is_positive > 0.5)]
        if "hard" in term.negatives and x["hard_negative_rows"].shape[1]:
            embedding = matryoshka_prefix(y_pred[f"hard_negative_{term.item}"], dim)
            query_rows = ops.cast(x["query_rows"], "int32")
            hard = self.pools["hard"](embedding, ops.cast(x["hard_negative_rows"], "int32"), item_row, query_rows)
            similarity = ops.cast(ops.sum(query[:, None, :] * hard.embedding, axis=-1), "float32")  # (B, K)
            # Corrected as the positive is, so that the two compare without the correction.
            logits.append(mask_logits(similarity * scale - item_log_q, hard.item_row == PADDING_ROW))
        return ops.concatenate(logits, axis=1)

    def _log_q(self, rows: Any) -> Any:
        if not self.config.log_q or "log_q" not in self.statistics.names:
            return ops.zeros_like(rows, dtype="float32")
        return ops.take(self.statistics.all("log_q"), rows)

    def _shared_negatives(self, term: InfoNCETerm, items: Any, item_row: Any) -> list[Negatives]:
        """The shared pools of a term; the items of all replicas hold those of the batch."""
        shared = []
        if "cross_replica" in term.negatives or "in_batch" in term.negatives:
            pool = "cross_replica" if "cross_replica" in term.negatives else "in_batch"
            shared.append(self.pools[pool](items, item_row))
        if "queue" in term.negatives and self.queues:
            shared.append(self.queues[term.item](items))
        return shared

    def _false_negatives(self, x: Content, rows: Any, gathered: bool) -> Any:
        key, item_row = ops.cast(x["key"], "int32"), ops.cast(x["item_row"], "int32")
        positive_rows, num_rows = ops.cast(x["query_rows"], "int32"), self.num_items + 1
        if self.max_positives:
            row_splits, values = self.statistics.all("row_splits"), self.statistics.all("values")
            known = lookup_positives(row_splits, values, key, self.max_positives)
            return false_negative_mask(ops.concatenate([positive_rows, known], axis=1), rows, num_rows)
        pairs = StepPairs(key, *((all_gather(item_row), all_gather(key)) if gathered else (item_row, key)))
        return false_negative_mask(positive_rows, rows, num_rows, pairs)

    def _enqueue(self, x: Content, y_pred: Views) -> None:
        """Puts the items of all replicas into the queues, as the momentum encoder embeds them where there is one."""
        if not self.queues:
            return
        views = {view: y_pred[f"item_{view}"] for view in self.item_views}
        if self.momentum_encoder is not None:
            self.momentum_encoder.update()
            item = slice(self.query_length, self.query_length + 1)
            content = {name: values[:, item] for name, values in x.items() if name not in PAIR_INPUTS}
            with self.momentum_encoder.scope(self.variables):
                rows = ops.cast(x["item_row"], "int32")[:, None]
                views = {name: view[:, 0] for name, view in self._views_of_rows(content, rows, False).items()}
        item_row = all_gather(ops.cast(x["item_row"], "int32"))
        for view, queue in self.queues.items():
            queue.enqueue(all_gather(views[view]), item_row)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return self.get_metrics_result()  # the losses and the accuracy, which `compute_loss` updates

    # -- saving --------------------------------------------------------------------------------------------

    def input_signature(self) -> Any:
        def spec(name: str, *shape: int | None, dtype: str = "int32") -> Any:
            return keras.InputSpec(shape=(None, *shape), dtype=dtype, name=name)

        signature = {"query_rows": spec("query_rows", self.query_length), "item_row": spec("item_row")}
        signature["hard_negative_rows"], signature["key"] = spec("hard_negative_rows", 0), spec("key")
        if self.features.names:
            return signature
        rows = self.query_length + 1
        return signature | {
            name: spec(name, rows, *tensor.shape[1:], dtype=tensor.dtype) for name, tensor in self.encoder.input.items()
        }


def matryoshka_prefix(embedding: Any, dim: int) -> Any:
    """The first `dim` dimensions of embeddings [..., d], L2-normalised again where these are fewer than all.

    Source: Matryoshka representation learning (2205.13147).
    """
    return embedding if dim == embedding.shape[-1] else l2_normalize(embedding[..., :dim])
