"""Stage 3, CiUBM: the content-interest-aware user behaviour model, which predicts the click."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.config import CiubmConfig, Interest, require
from mim_keras.layers import (
    AttributeEmbedding,
    AttributeMatch,
    CrossDeepHead,
    DINAttention,
    EncodedHistory,
    EncodedTarget,
    HistoryEncoder,
    InterestAttention,
    ItemTable,
    LearnedSimilarity,
    MeanPooling,
    ModalAttention,
    MultiGateHead,
    SemanticTargetAttention,
    Similarity,
    SimTier,
    TargetAttention,
    TargetEncoder,
    TopKSearch,
    content_similarity,
)
from mim_keras.layers.base import check_rank, check_same_length, default_dtype
from mim_keras.layers.embedding import DotL2, float32_compositional, float32_embedding
from mim_keras.layers.top_k_search import gather_behaviours
from mim_keras.models.base import StageModel

ATTRIBUTE_DIM = 8
CONTEXT_DIM = 8
CONTENT_HEAD_DIM = 32
ID_TABLES = (r"\b(user|item|history_item)_embedding/",)  # paths of the id embeddings
# Name in `config.interests` → the layer that reads it from a history.
INTEREST_LAYERS: dict[str, Callable[[CiubmConfig, Interest, ItemTable], Any]] = {
    "mean_pooling": lambda config, interest, table: MeanPooling(),
    "target_attention": lambda config, interest, table: TargetAttention(config.id_dim, interest.heads),
    "din_attention": lambda config, interest, table: DINAttention(config.id_dim, interest.hidden_dim),
    "modal_attention": lambda config, interest, table: ModalAttention(config.content_dim, interest.temperature),
    "semantic_target_attention": lambda config, interest, table: SemanticTargetAttention(
        config.id_dim, interest.heads, interest.temperature
    ),
    "sim_tier": lambda config, interest, table: SimTier(interest.bins),
    "attribute_match": lambda config, interest, table: AttributeMatch(table.slots),
    "learned_similarity": lambda config, interest, table: LearnedSimilarity(interest.hidden_dim),
}
SCORE_ARGUMENTS = (
    *("item_row", "user_index", "context", "statistics"),
    *("item_embedding", "use_item_embedding", "item_attributes", "drop_id", "similarity"),
)
Outputs = dict[str, Any]


@dataclass(frozen=True)
class VocabularySizes:
    """Sizes that come from the data.

    Attributes:
        users: Rows of the user embedding: the number of users, and one for row 0, which unknown users share.
        context: Values of each categorical context feature, in order.
        statistics: Numbers in the input `statistics`; 0 for none.
    """

    users: int
    context: tuple[int, ...] = ()
    statistics: int = 0

    def __post_init__(self) -> None:
        ok = self.users >= 1 and min(self.context, default=1) >= 1 and self.statistics >= 0
        require(ok, "vocabulary sizes are positive", self, "users counts row 0, which unknown users share.")


class Ranker(StageModel):
    """What `CiUBM` and `RankerEnsemble` share: inputs, labels, losses on probabilities.

    Reads a mapping: `item_row` int [B], `history_rows` int [B, L] (0 is padding), `history_ages` int [B, L] (seconds;
    where `config.reads_ages`), `user_index` int [B], `context` int [B, C] where there are context features,
    `statistics` float [B, S] where there are any: scaled numbers about the target and its user; optionally
    `item_embedding` float [B, d], `use_item_embedding` bool [B] and `item_attributes` int [B, slots] (see
    `TargetEncoder`), `drop_id` bool [B], and `similarity` float [B, L], precomputed cosine similarities.
    """

    primary_output = "ctr"
    config_settings = {"config": CiubmConfig, "vocabulary_sizes": VocabularySizes}
    config: CiubmConfig
    vocabulary_sizes: VocabularySizes

    def input_signature(self) -> Any:
        def spec(name: str, *shape: int | None) -> Any:
            return keras.InputSpec(shape=(None, *shape), dtype="int32", name=name)

        signature = {"item_row": spec("item_row"), "history_rows": spec("history_rows", None)}
        if self.config.reads_ages:
            signature["history_ages"] = spec("history_ages", None)
        signature["user_index"] = spec("user_index")
        if context := self.vocabulary_sizes.context:
            signature["context"] = spec("context", len(context))
        if size := self.vocabulary_sizes.statistics:
            signature["statistics"] = keras.InputSpec(shape=(None, size), dtype="float32", name="statistics")
        return signature

    def check_inputs(self, inputs: Any) -> dict[str, Any]:
        """The inputs with indices as int32; one out of range, a negative one too, is unknown: 0.

        Raises:
            ValueError: an input is missing or has another shape.
        """
        signature = self.input_signature()
        if not isinstance(inputs, Mapping) or set(signature) - set(inputs):
            received = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(
                f"{type(self).__name__} reads a mapping with {', '.join(signature)}; received {received}. Add what is "
                "missing."
            )
        sizes: dict[str, Any] = dict.fromkeys(("item_row", "history_rows"), self.num_rows)
        sizes |= {"user_index": self.vocabulary_sizes.users}
        sizes |= {"context": np.array(self.vocabulary_sizes.context)} if self.vocabulary_sizes.context else {}
        checked = dict(inputs)
        for name, spec in signature.items():
            value = ops.convert_to_tensor(inputs[name])
            check_rank(self, name, value.shape, " ".join(("batch", "length")[: len(spec.shape)]))
            if None not in (spec.shape[-1], value.shape[-1]) and value.shape[-1] != spec.shape[-1]:
                raise ValueError(
                    f"{type(self).__name__}: `{name}` must have shape (batch, {spec.shape[-1]}); received "
                    f"{tuple(value.shape)}. Give a column for each."
                )
            if name in sizes:
                known = ops.logical_and(value >= 0, value < sizes[name])  # before the cast, which wraps
                value = ops.where(known, value, ops.zeros_like(value))
            checked[name] = ops.cast(value, spec.dtype)
        self._check_optional_inputs(checked)
        if "history_ages" in signature:
            check_same_length(
                self, history_rows=checked["history_rows"].shape, history_ages=checked["history_ages"].shape
            )
        return checked

    def _check_optional_inputs(self, inputs: dict[str, Any]) -> None:
        batch, length = inputs["history_rows"].shape
        widths = {"item_embedding": self.item_embedding_dim, "similarity": length}
        widths["item_attributes"] = self.attribute_slots
        for name in set(widths) & set(inputs):
            received, expected = tuple(inputs[name].shape), (batch, widths[name])
            same = [None in sizes or sizes[0] == sizes[1] for sizes in zip(received, expected, strict=False)]
            if len(received) != 2 or not all(same):
                raise ValueError(
                    f"{type(self).__name__}: `{name}` must have shape {expected}; received {received}. Give a row for "
                    "each target."
                )

    @property
    def num_rows(self) -> int:
        """Rows of the item table, padding included."""
        raise NotImplementedError

    @property
    def item_embedding_dim(self) -> int:
        """Width of the content embeddings that the ranker reads."""
        raise NotImplementedError

    @property
    def attribute_slots(self) -> int:
        """Columns of the attribute codes of an item."""
        raise NotImplementedError

    def labels_by_output(self, y: Any, y_pred: Mapping[str, Any]) -> Any:
        """The labels of each output.

        Args:
            y: A mapping by label or by output; a list in the order of `config.labels`; float [B], [B, 1] of the click,
                where there is no other label; float [B, labels].
            y_pred: The outputs.

        Raises:
            ValueError: `y` has another number of labels.
        """
        outputs = self.config.label_outputs
        if y is None or (isinstance(y, Mapping) and set(y) == set(y_pred)):
            return y
        if isinstance(y, list | tuple) and len(y) == len(outputs):
            y = dict(zip(outputs, y, strict=True))
        if not isinstance(y, Mapping):
            width = y.shape[-1] if len(y.shape) == 2 else 1
            if width != len(outputs):
                raise ValueError(
                    f"{type(self).__name__} is trained on the labels {', '.join(outputs)}; received labels of shape "
                    f"{tuple(y.shape)}. Give a column for each."
                )
            y = {label: y[:, index] for index, label in enumerate(outputs)} if len(outputs) > 1 else {"clicked": y}
        if missing := [label for label, output in outputs.items() if not {label, output} & set(y)]:
            raise ValueError(
                f"{type(self).__name__} is trained on the labels {', '.join(outputs)}; received {', '.join(y)}. Add "
                f"{', '.join(missing)}."
            )
        by_output = {output: y[label] if label in y else y[output] for label, output in outputs.items()}
        return {name: y[name] if name in y else by_output[self._predicts(name)] for name in y_pred}

    def weights_by_output(self, sample_weight: Any, y_pred: Mapping[str, Any]) -> Any:
        """Weights by label, or by output, for every output; one array of weights stays one."""
        if not isinstance(sample_weight, Mapping | list | tuple):
            return sample_weight
        return self.labels_by_output(sample_weight, y_pred)

    def fit(self, x: Any = None, y: Any = None, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.fit`.

        Raises:
            ValueError: `class_weight` for several labels, of which Keras would take the largest for a class.
        """
        if options.get("class_weight") and len(self.config.labels) > 1:
            raise ValueError(
                f"class_weight is for one label; the ranker has {', '.join(self.config.labels)}. Pass a sample_weight, "
                "or set label_loss_weights."
            )
        return super().fit(x, y, *arguments, **options)

    def rowwise_options(self) -> dict[str, Any]:
        config = self.config
        if config.id_embedding_update == "dense" or not config.use_ids:
            return {}
        return {
            "tables": ID_TABLES,
            "table_update": config.id_embedding_update,
            "table_learning_rate": config.table_learning_rate,
            "table_l2": config.id_embedding_l2,
        }

    def _predicts(self, name: str) -> str:
        """The output of a label that output `name`, a content head's or a member's, predicts too."""
        name = re.sub(r"_\d+$", "", name) if name not in self.config.label_outputs.values() else name
        return name.removeprefix("content_") if name == "content_ctr" else name


def probabilities(logits: Outputs) -> Outputs:
    """The sigmoid of logits, float32.  On TensorFlow Keras' cross-entropy of it is computed from the logits."""
    return {name: ops.sigmoid(ops.cast(logit, "float32")) for name, logit in logits.items()}


def product_logit(first: Any, second: Any) -> Any:
    """The logit of σ(first) · σ(second), float32; exact where both are near 0 or near 1.

    Example:
        >>> import numpy as np
        >>> from mim_keras.models.ciubm import product_logit
        >>> logit = product_logit(np.array([0.0], "float32"), np.array([0.0], "float32"))  # 1/2 · 1/2
        >>> round(float(1 / (1 + np.exp(-logit[0]))), 4)
        0.25
    """
    first, second = (ops.cast(logit, "float32") for logit in (first, second))
    # p q / (1 - p q), where 1 / p = 1 + e^-first: the logit is -log(e^-first + e^-second + e^-(first + second)).
    terms = ops.stack([-first, -second, -first - second], axis=-1)
    return -ops.logsumexp(terms, axis=-1)


def click_loss() -> keras.losses.Loss:
    """Binary cross-entropy, a mean weighted by `sample_weight`: a row of weight 3 trains as three rows."""
    return keras.losses.BinaryCrossentropy(reduction="mean_with_sample_weight")


@keras.saving.register_keras_serializable("mim")
class CiUBM(Ranker):
    """Ids and content of a user's history against a target item → the probability of a click.

    `config.interests` lists what is read from a history; a cross network and a deep network, side by side, turn all
    features into the logit.  A history is encoded once (`encode_history`) and may be shared by many targets (`score`).

    Args:
        config: Widths and interests.
        vocabulary_sizes: Sizes that come from the data.
        item_table: What is known of every item.

    Raises:
        TypeError: `item_table` is no `ItemTable`.

    Call arguments:
        inputs: A mapping, see `Ranker`.

    Returns:
        `ctr` float [B, 1], the probability of a click; of each further label in `config.labels` its probability, by
        the label's name; and with content `content_ctr` [B, 1], the prediction of the click by content alone.

    Example:
        >>> import numpy as np
        >>> from mim_keras.config import preset
        >>> from mim_keras.layers import ItemTable, ItemTableData
        >>> from mim_keras.models import CiUBM, VocabularySizes
        >>> data = ItemTableData.from_items(np.eye(4, dtype="f4"), np.ones(4, bool), [["a"], [], [], []], np.arange(4))
        >>> model = CiUBM(preset("tiny").ciubm, VocabularySizes(users=10), ItemTable.from_data(data))
        >>> model.compile(optimizer="adam", metrics=["AUC"])
        >>> inputs = {"item_row": np.array([1, 2]), "user_index": np.array([1, 2])}
        >>> inputs |= {"history_rows": np.array([[3, 4], [1, 0]]), "history_ages": np.array([[60, 5], [9, 0]])}
        >>> model.predict(inputs, verbose=0)["ctr"].shape
        (2, 1)

    Source: CiUBM of MIM (2502.00321); each interest names its own.
    """

    config_parts = ("item_table",)

    def __init__(
        self, config: CiubmConfig, vocabulary_sizes: VocabularySizes, item_table: ItemTable, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(item_table, ItemTable):
            rule = "CiUBM reads an ItemTable"
            raise TypeError(f"{rule}; received {type(item_table).__name__}. Make one by ItemTable.from_data(data).")
        self.config, self.vocabulary_sizes, self.item_table = config, vocabulary_sizes, item_table
        with default_dtype(self.dtype_policy):
            self._make_encoders()
            self._make_interests()
            self._make_heads()
        self.build_from_signature()

    def _make_encoders(self) -> None:
        config, item_table = self.config, self.item_table
        parts: dict[str, Any] = {"attribute_embedding": AttributeEmbedding(item_table.num_values, ATTRIBUTE_DIM)}
        if config.use_content:
            l2 = config.content_projection_l2 / item_table.embedding_dim  # a random unit vector keeps its mean square
            regularizer = DotL2(l2) if l2 else None
            projection = keras.layers.Dense(config.content_dim, use_bias=False, kernel_regularizer=regularizer)
            parts["content_projection"] = projection
        self.target_encoder = TargetEncoder(item_table, id_embedding=self._ids("item_embedding"), **parts)
        self.history_encoder = HistoryEncoder(
            item_table,
            id_embedding=self._ids("history_item_embedding"),
            recency_heads=config.num_attention_heads if config.use_recency else 0,
            needs_embedding=config.needs_similarity,
            **parts,
        )
        self.user_embedding = self._ids("user_embedding", self.vocabulary_sizes.users)
        self.context_embeddings = [
            float32_embedding(values, CONTEXT_DIM, f"context_embedding_{index}", "uniform")
            for index, values in enumerate(self.vocabulary_sizes.context)
        ]

    def _make_heads(self) -> None:
        config = self.config
        sizes = (config.cross_layers, config.hidden, config.dropout)
        self.head = self.multi_gate_head = None  # type: Any
        if config.multi_label == "mmoe" and len(config.labels) > 1:
            self.multi_gate_head = MultiGateHead(len(config.labels), config.experts, *sizes)
        else:
            self.head = CrossDeepHead(*sizes)
        further = config.labels[1:] if self.head is not None else ()
        self.label_heads = [CrossDeepHead(*sizes, name=f"head_of_{label}") for label in further]
        self.content_head: Any = None
        if config.use_content:
            layers = [
                keras.layers.Dense(CONTENT_HEAD_DIM, activation="gelu", name="hidden"),
                keras.layers.Dense(1, name="logit"),
            ]
            self.content_head = keras.Sequential(layers, name="content_head")

    def _ids(self, name: str, rows: int | None = None) -> Any:
        """The embedding of item ids, or of `rows` user ids."""
        config, column = self.config, "item" if rows is None else "user"
        if not config.use_ids:
            return None
        rows = self.item_table.num_ids if rows is None else rows
        # Of rows that are updated singly the optimizer regularises those of a batch.
        l2 = config.id_embedding_l2 if config.id_embedding_update == "dense" else 0.0
        kind = getattr(config, f"{column}_id_table")
        if kind == "full":
            return float32_embedding(rows, config.id_dim, name, l2=l2)
        small = getattr(config, f"{column}_id_table_rows") or max(1, round(rows / 10))
        return float32_compositional(rows, config.id_dim, name, (kind, small), l2)

    def _make_interests(self) -> None:
        made = {one.name: INTEREST_LAYERS[one.name](self.config, one, self.item_table) for one in self.config.interests}
        self.mean_pooling, self.sim_tier, self.din_attention, self.attribute_match, self.learned_similarity = (
            made.pop(name, None)
            for name in ("mean_pooling", "sim_tier", "din_attention", "attribute_match", "learned_similarity")
        )
        self.interest_attention = InterestAttention(list(made.values())) if made else None
        self.search = TopKSearch(self.config.search_top_k) if self.config.search_top_k else None

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            self.built = True  # first: the call below must not build again
            self.compute_output_shape(input_shape)  # calls, and so builds, every layer

    # -- encoding and scoring ------------------------------------------------------------------------------

    def encode_history(self, rows: Any, ages: Any = None, similarity_known: bool = False) -> EncodedHistory:
        """Encodes histories, before any target is known; see `HistoryEncoder`."""
        return self.history_encoder(rows, ages, similarity_known=similarity_known)

    def score(
        self, history: EncodedHistory, item_row: Any, user_index: Any, context: Any = None, **options: Any
    ) -> Outputs:
        """Scores B targets against encoded histories.

        Args:
            history: From `encode_history`, of H histories; H is B or 1.
            item_row: int [B].
            user_index: int [H].
            context: int [H, C].
            options: `statistics`, `item_embedding`, `use_item_embedding`, `item_attributes`, `drop_id`, `similarity`,
                `training`; see `Ranker`.

        Returns:
            As a call of the model.
        """
        return probabilities(self.score_logits(history, item_row, user_index, context, **options))

    def score_logits(
        self, history: EncodedHistory, item_row: Any, user_index: Any, context: Any = None, **options: Any
    ) -> Outputs:
        """As `score`, before the sigmoid."""
        target = self._encode_target(item_row, options)
        user = self._encode_user(history, user_index, context)
        pooled = self.mean_pooling(target, history) if self.mean_pooling else None
        similarity = self._similarity(target, history, options)
        by_content, by_ids = self._attend(target, history, similarity)
        features, logits = [target.features, *by_ids], {}  # type: list[Any], Outputs
        if self.attribute_match is not None:
            match = self.attribute_match(target.attributes, history.attributes, history_mask=history.mask)
            features.append(match)
        if target.id_embedding is not None:
            features += [pooled.ids] if pooled else []
            user_embedding = ops.cast(self.user_embedding(user_index), self.compute_dtype)
            features.append(ops.sum(target.id_embedding * user_embedding, axis=-1, keepdims=True))
        if target.content is not None:
            content = [target.content, ops.cast(target.has_content, target.content.dtype)[:, None]]
            content += [pooled.content] if pooled else []
            content += [self.sim_tier(similarity.cosine, similarity.mask)] if self.sim_tier and similarity else []
            content += by_content
            content += [self._learned_similarity(target, history)] if self.learned_similarity else []
            logits["content_ctr"] = self.content_head(ops.concatenate(content, axis=-1))
            features += content
        features.append(ops.broadcast_to(user, (ops.shape(target.features)[0], user.shape[-1])))
        features += self._statistics(options)
        return self._label_logits(ops.concatenate(features, axis=-1), options.get("training", False)) | logits

    def _label_logits(self, features: Any, training: bool) -> Outputs:
        """The logit of each label, [B, 1], by output."""
        outputs = self.config.label_outputs.values()
        if self.multi_gate_head is not None:
            mixed = self.multi_gate_head(features, training=training)
            return {name: mixed[:, index : index + 1] for index, name in enumerate(outputs)}
        click, *others = (head(features, training=training) for head in (self.head, *self.label_heads))
        if self.config.multi_label == "esmm":
            others = [product_logit(click, other) for other in others]
        return dict(zip(outputs, [click, *others], strict=True))

    def _encode_target(self, item_row: Any, options: dict[str, Any]) -> EncodedTarget:
        names = ("item_embedding", "use_item_embedding", "item_attributes", "drop_id")
        return self.target_encoder(item_row, **{name: options[name] for name in names if options.get(name) is not None})

    def _encode_user(self, history: EncodedHistory, user_index: Any, context: Any) -> Any:
        """What is the same for all targets of a user: [H, ·]."""
        length = ops.log(1.0 + ops.sum(ops.cast(history.mask, "float32"), axis=1, keepdims=True))
        parts = [ops.cast(length, self.compute_dtype)]
        if self.mean_pooling:
            parts.insert(0, history.mean)
        if self.user_embedding is not None:
            parts.append(ops.cast(self.user_embedding(user_index), self.compute_dtype))
        if self.context_embeddings and context is None:
            raise ValueError(
                f"context must have {len(self.context_embeddings)} features, as the ranker has; received None. "
                "Give an int array [batch, features]."
            )
        for index, embedding in enumerate(self.context_embeddings):
            parts.append(ops.cast(embedding(context[:, index]), self.compute_dtype))
        return ops.concatenate(parts, axis=-1)

    def _statistics(self, options: dict[str, Any]) -> list[Any]:
        statistics, size = options.get("statistics"), self.vocabulary_sizes.statistics
        if not size:
            return []
        received = None if statistics is None else tuple(statistics.shape)
        if received is None or len(received) != 2 or received[1] != size:
            raise ValueError(
                f"statistics must be [batch, {size}]; received {received}. Give a float array of this shape."
            )
        return [ops.cast(statistics, self.compute_dtype)]

    def _similarity(self, target: EncodedTarget, history: EncodedHistory, options: dict[str, Any]) -> Similarity | None:
        if not self.config.needs_similarity:
            return None
        known = options.get("similarity") if history.embedding is None else None
        return content_similarity(target, history, known)

    def _learned_similarity(self, target: EncodedTarget, history: EncodedHistory) -> Any:
        width = self.history_encoder.content_dim
        one = ops.concatenate([target.content, target.features[:, -ATTRIBUTE_DIM:]], axis=-1)
        parts = [history.behaviours[..., :width], history.behaviours[..., -ATTRIBUTE_DIM:]]
        return self.learned_similarity(one, ops.concatenate(parts, axis=-1), history_mask=history.mask)

    def _attend(
        self, target: EncodedTarget, history: EncodedHistory, similarity: Similarity | None
    ) -> tuple[list[Any], list[Any]]:
        """Outputs of the attentions that read content, and of those that read ids; the search selects what they see."""
        by_content: list[Any] = []
        by_ids: list[Any] = []
        if self.search is not None and similarity is not None:
            indices = self.search(similarity.cosine, history.mask)
            names = ("behaviours", "mask", "recency")
            kept = {name: getattr(history, name) for name in names if getattr(history, name) is not None}
            history = history._replace(**{name: gather_behaviours(one, indices) for name, one in kept.items()})
            similarity = Similarity(*(ops.take_along_axis(values, indices, axis=1) for values in similarity))
        if self.interest_attention is not None:
            outputs = self.interest_attention(target, history, similarity)
            for attention, output in zip(self.interest_attention.attentions, outputs, strict=True):
                (by_content if attention.query_is_content else by_ids).append(output)
        if self.din_attention is not None:
            behaviours = history.behaviours[..., self.history_encoder.content_dim :]
            by_ids.append(self.din_attention(target.features, behaviours, history_mask=history.mask))
        return by_content, by_ids

    def call(self, inputs: dict[str, Any], training: bool = False) -> Outputs:
        return probabilities(self.call_logits(self.check_inputs(inputs), training))

    def call_logits(self, inputs: dict[str, Any], training: bool = False) -> Outputs:
        """As a call, before the sigmoid, of inputs from `check_inputs`."""
        arguments = {name: inputs[name] for name in SCORE_ARGUMENTS if name in inputs}
        if "item_embedding" in inputs:
            arguments.pop("similarity", None)  # of the table's embeddings
        history = self.encode_history(inputs["history_rows"], inputs.get("history_ages"), "similarity" in arguments)
        return self.score_logits(history, training=training, **arguments)

    # -- losses and data -----------------------------------------------------------------------------------

    def default_losses(self) -> dict[str, Any]:
        config = self.config
        has_content = self.content_head is not None and (config.content_loss_weight or config.content_warmup_epochs)
        return {name: click_loss() for name in (*config.label_outputs.values(), *["content_ctr"] * bool(has_content))}

    def default_loss_weights(self) -> dict[str, float]:
        own = self.config.label_loss_weights
        weights = {output: float(own.get(label, 1.0)) for label, output in self.config.label_outputs.items()}
        weights["content_ctr"] = self.config.content_loss_weight
        return {name: weights[name] for name in self.default_losses()}

    @property
    def num_rows(self) -> int:
        return int(self.item_table.num_rows)

    @property
    def item_embedding_dim(self) -> int:
        """Width of the content embeddings that the ranker reads."""
        return self.item_table.embedding_dim

    @property
    def attribute_slots(self) -> int:
        return sum(self.item_table.slots)

    def has_embedding(self, rows: Any) -> Any:
        """Whether items have a content embedding, bool, in the shape of `rows`."""
        return ops.take(self.item_table.has_embedding, rows, axis=0)

    def layers_outside_content_head(self) -> list[keras.layers.Layer]:
        """Layers that the content head does not depend on."""
        layers = [self.target_encoder.id_embedding, self.user_embedding, self.din_attention]
        layers += [self.head, self.multi_gate_head, *self.label_heads]
        attentions = self.interest_attention.attentions if self.interest_attention is not None else []
        layers += [attention for attention in attentions if not attention.query_is_content]
        return [layer for layer in (*layers, *self.context_embeddings) if layer is not None]

    def shared_row_tables(self) -> list[Any]:
        """Variables in whose rows several ids share; which ones follows from the vocabulary."""
        if not self.config.use_ids:
            return []
        found = (self.target_encoder.id_embedding, self.history_encoder.id_embedding, self.user_embedding)
        return [table for one in found for table in getattr(one, "tables", ())]

    def vocabulary_tables(self) -> dict[str, list[Any]]:
        """Variables with one row for each value of a vocabulary: attribute, item, user, context 0, …"""
        tables = {"attribute": [self.target_encoder.attribute_embedding.embeddings]}
        if self.config.use_ids:
            found: dict[str, tuple[Any, ...]] = {
                "item": (self.target_encoder.id_embedding, self.history_encoder.id_embedding)
            }
            found["user"] = (self.user_embedding,)
            full = {n: [one.embeddings for one in made if hasattr(one, "embeddings")] for n, made in found.items()}
            tables |= {name: variables for name, variables in full.items() if variables}
        return tables | {f"context {i}": [one.embeddings] for i, one in enumerate(self.context_embeddings)}
