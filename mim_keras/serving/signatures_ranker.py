"""The SavedModel of the ranker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mim_keras.config import CiubmConfig
from mim_keras.models import Ranker
from mim_keras.serving.assets import tensorflow_variables, write_metadata
from mim_keras.serving.attribute_inputs import PREFIX, AttributeInputs, RawAttribute
from mim_keras.serving.calibration import Calibration, undo_sampling
from mim_keras.serving.statistics_lookup import StatisticsLookup, StatisticsTable
from mim_keras.serving.warmup import WarmupRequest, as_bytes, repeat_to, write_warmup

CANDIDATES = (1, 10, 100, 500)
EXAMPLE_BATCHES = (1, 8, 64)
SMALLEST_PROBABILITY = 1e-7  # in the final score
MAX_CONSTANT = 1 << 16  # values of a weight; larger ones, the tables above all, stay variables


def item_lookup(item_ids: np.ndarray, vocabulary_file: Path) -> keras.layers.StringLookup:
    """Item ids, strings of any shape → rows of the item table, 0 for an id that the table lacks.

    Args:
        item_ids: In the order of the table, without its padding row.
        vocabulary_file: Where they are written, one a line; it must stay until the ranker is exported, with a copy of
            it.
    """
    vocabulary_file.parent.mkdir(parents=True, exist_ok=True)
    vocabulary_file.write_text("".join(f"{item_id}\n" for item_id in item_ids))
    return keras.layers.StringLookup(vocabulary=str(vocabulary_file), num_oov_indices=1)


@dataclass
class RankerSignatureSpec:
    """What a ranker's SavedModel needs beside the model.

    Attributes:
        item_ids: Ids in the order of the model's item table, without the padding row.
        item_lookup: The same, as a lookup.
        transform: Raw features → `user_index` and, for each context feature NAME, `NAME_index`; all [B, 1].
        transform_owner: The object that holds the resources of `transform`, to be saved with it.
        feature_spec: How to parse raw tf.Examples; a superset of what is needed.
        context_features: Names, in the order of the model's context features.
        encoder_version: Of the embeddings in the item table.
        examples: Real raw tf.Examples, serialized, for the warm-up requests.
        statistics: Of users and candidates, for a ranker that reads any.
        item_numbers: The numbers of items that `config.final_score` names, float [items] each; NaN for a missing one.
        attributes: Of items, those that a request may give for a candidate, by name, in the order of their slots.
        calibrations: By output, of those that are calibrated.
    """

    item_ids: np.ndarray
    item_lookup: keras.layers.StringLookup
    transform: Callable[[dict[str, Any]], dict[str, Any]]
    transform_owner: Any
    feature_spec: dict[str, Any]
    context_features: tuple[str, ...]
    encoder_version: str
    examples: Sequence[bytes] = ()
    statistics: StatisticsTable | None = None
    item_numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, RawAttribute] = field(default_factory=dict)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)


def export_ranker(model: Ranker, spec: RankerSignatureSpec, folder: Path) -> None:
    """Writes the SavedModel `mim_ranker` with the signatures `rank`, `rank_with_vectors`, `serve_examples`,
    `transform_features` and, where items have attributes, `rank_with_attributes`.

    `rank` returns `ctr` and each further label of the ranker, float32 [N]; `final_score` float64 [N], where the
    settings have one; `has_vector` bool [N], false for a candidate without a content embedding; and `encoder_version`
    string [1].  `rank_with_vectors` takes the encoder version of the given embeddings, and refuses
    any other than the ranker's own.  `rank_with_attributes` takes raw attributes of the candidates, and
    `rank_with_vectors` takes them too; see `AttributeInputs`.  The model has no batching parameters: the inputs of
    `rank` differ in length.

    Args:
        model: The trained ranker.
        spec: Vocabulary and transform.
        folder: Where the SavedModel goes.
    """
    signatures = _RankerSignatures(model, spec)
    module = tf.Module()
    module.tracked = tensorflow_variables(model.variables)
    module.items, module.transform = spec.item_lookup, spec.transform_owner
    module.statistics, module.final_score = signatures.statistics, signatures.final_score
    module.attributes = signatures.attributes
    tf.saved_model.save(module, str(folder), signatures.concrete_functions())
    metadata = {
        "kind": "ranker",
        "encoder_version": spec.encoder_version,
        "items": len(spec.item_ids),
        "dimension": model.item_embedding_dim,
        "history_length": model.config.history_length,
        "context_features": list(spec.context_features),
        "attributes": {name: attribute.kind for name, attribute in spec.attributes.items()},
        "outputs": list(model.config.label_outputs.values()),
        "final_score": dict(model.config.final_score),
        "calibrated": sorted(spec.calibrations),
        "negative_sampling_rate": model.config.negative_sampling_rate,
    }
    if spec.statistics is not None:
        metadata["statistics_as_of"] = spec.statistics.as_of
    write_metadata(folder, metadata)
    write_warmup(folder, _warmup_requests(model, spec))


def last_n(values: tf.SparseTensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` values of each row of a sparse [B, *], padded at the end: [B, length]."""
    return tf.RaggedTensor.from_sparse(values)[:, -length:].to_tensor(default, shape=[None, length])


class _FinalScore(tf.Module):
    """The product of outputs and numbers of items, each to its power; a number that is missing or not positive counts
    as the geometric mean of the others."""

    def __init__(self, config: CiubmConfig, item_numbers: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        outputs = config.label_outputs.values()
        self._exponents = {name: power for name, power in config.final_score.items() if name in outputs}
        self._numbers = []
        for name, power in config.final_score.items():
            if name not in outputs:
                logs, usual = _centred_log(item_numbers[name])
                of_items = np.concatenate([[0.0], logs])  # row 0: an unknown item
                self._numbers.append((name, power, usual, tf.Variable(of_items, trainable=False, name=name)))

    def __call__(self, scores: dict[str, tf.Tensor], rows: tf.Tensor, given: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The final scores, float64 [N].

        Args:
            scores: Outputs of the ranker.
            rows: Of the item table.
            given: Numbers that replace the candidates' own, float64 [N] by name; NaN keeps its own.
        """
        total = tf.zeros_like(scores["ctr"], tf.float64)  # float32 would make products of large powers 0 or infinite
        for name, power in self._exponents.items():
            total += power * tf.math.log(tf.maximum(tf.cast(scores[name], tf.float64), SMALLEST_PROBABILITY))
        for name, power, usual, of_items in self._numbers:
            log = tf.gather(of_items, rows)
            if name in given:
                positive = given[name] > 0
                own = tf.math.log(tf.where(positive, given[name], 1.0)) - usual
                log = tf.where(positive, own, tf.where(tf.math.is_nan(given[name]), log, 0.0))
            total += power * log
        return tf.exp(total)


def _centred_log(values: np.ndarray) -> tuple[np.ndarray, float]:
    """(Logarithms, less their mean; 0 where there is none; the mean)."""
    known = np.isfinite(values) & (np.nan_to_num(values) > 0)
    logs = np.log(np.where(known, values, 1.0))
    usual = float(logs[known].mean()) if known.any() else 0.0
    return np.where(known, logs - usual, 0.0), usual


class _RankerSignatures:
    """The functions behind the signatures."""

    def __init__(self, model: Ranker, spec: RankerSignatureSpec) -> None:
        self.model, self.spec = model, spec
        self.length = model.config.history_length
        self.statistics = None if spec.statistics is None else StatisticsLookup(spec.statistics)
        self.final_score = _FinalScore(model.config, spec.item_numbers) if model.config.final_score else None
        self.attributes = AttributeInputs(spec.attributes, model.attribute_slots) if spec.attributes else None
        small = [variable for variable in model.variables if np.prod(variable.shape) <= MAX_CONSTANT]
        self._constants = [(variable, variable.numpy()) for variable in small]

    def _constant_scope(self) -> keras.StatelessScope:
        """A scope in which small weights are constants of the graph.

        A request runs a few hundred operations of a microsecond each, three of them for every variable that it reads.
        """
        return keras.StatelessScope([(variable, tf.constant(value)) for variable, value in self._constants])

    def _rows(self, item_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.spec.item_lookup(item_ids), tf.int32)

    def _context(self, transformed: dict[str, tf.Tensor]) -> tf.Tensor | None:
        names = self.spec.context_features
        if not names:
            return None
        return tf.concat([tf.cast(transformed[f"{name}_index"], tf.int32) for name in names], axis=1)

    def _rank(self, inputs: dict[str, tf.Tensor], embeddings: tf.Tensor | None) -> dict[str, tf.Tensor]:
        item_ids, ages = inputs["history_item_ids"], inputs["history_ages"]
        with tf.control_dependencies([_assert_equal_length(item_ids, ages)]):
            ages = tf.identity(ages)
        raw = {"user_id": inputs["user_id"][:, None]}
        raw |= {name: inputs[name][:, None] for name in self.spec.context_features}
        transformed = self.spec.transform(raw)
        user_index = tf.cast(transformed["user_index"][:, 0], tf.int32)
        rows = self._rows(inputs["candidate_item_ids"])
        history_rows = self._rows(_pad_to(item_ids, self.length, ""))[None, :]
        given = {} if embeddings is None else {"item_embedding": embeddings}
        attributes, numbers = self._given_attributes(inputs)
        if self.attributes is not None and attributes:
            given["item_attributes"] = self.attributes.codes(attributes)
        if self.statistics is not None:
            counts = self.statistics(inputs["user_id"], rows, attributes)
            given["statistics"] = self.spec.transform({"statistics": counts})["statistics"]
        with self._constant_scope():
            history = self.model.encode_history(history_rows, _pad_to(ages, self.length, 0)[None, :])
            outputs = self.model.score(history, rows, user_index, self._context(transformed), **given)
            has_embedding = self.model.has_embedding(rows)
        scores = self._scores(outputs)
        if self.final_score is not None:
            scores["final_score"] = self.final_score(scores, rows, numbers)
        return {**scores, "has_vector": has_embedding, "encoder_version": tf.constant([self.spec.encoder_version])}

    def _given_attributes(
        self, inputs: dict[str, tf.Tensor]
    ) -> tuple[dict[str, tf.RaggedTensor], dict[str, tf.Tensor]]:
        """(Values of attributes that a request gives, numbers that the final score reads)."""
        if self.attributes is None or not set(self.attributes.names) & set(inputs):
            return {}, {}
        names = self.model.config.final_score
        numbers = {name: self.attributes.number(name, inputs) for name in names}
        return self.attributes.values(inputs), {name: one for name, one in numbers.items() if one is not None}

    def _scores(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Calibrated probabilities of the whole log, [B] by output."""
        config = self.model.config
        scores = {name: outputs[name][:, 0] for name in config.label_outputs.values()}
        scores |= {name: calibration(scores[name]) for name, calibration in self.spec.calibrations.items()}
        if config.negative_sampling_rate < 1:
            # Labels follow the click, so that their odds given a click are those of the thinned log.
            click = undo_sampling(scores["ctr"], config.negative_sampling_rate)
            share = click / tf.maximum(scores["ctr"], SMALLEST_PROBABILITY)
            scores = {name: click if name == "ctr" else score * share for name, score in scores.items()}
        return scores

    def _example_inputs(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        needed = {"user_id", "item_id", "history_item_ids", "history_ages", *self.spec.context_features}
        needed |= set() if self.statistics is None else {"statistics"}
        features = {name: feature for name, feature in self.spec.feature_spec.items() if name in needed}
        raw = tf.io.parse_example(examples, features)
        transformed = self.spec.transform(raw)
        inputs = {
            "item_row": self._rows(raw["item_id"][:, 0]),
            "history_rows": self._rows(last_n(raw["history_item_ids"], self.length, "")),
            "history_ages": last_n(raw["history_ages"], self.length, 0),
            "user_index": tf.cast(transformed["user_index"][:, 0], tf.int32),
        }
        if self.statistics is not None:
            inputs["statistics"] = transformed["statistics"]
        context = self._context(transformed)
        return inputs if context is None else {**inputs, "context": context}

    def rank(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._rank(inputs, None)

    def rank_with_vectors(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        own = self.spec.encoder_version
        rule = f"candidate_vectors must be of encoder {own}, which this ranker was trained on; received vectors of"
        is_own = tf.reduce_all(inputs["encoder_version"] == own)
        check = tf.raw_ops.Assert(condition=is_own, data=[rule, inputs["encoder_version"]])
        with tf.control_dependencies([check]):
            # A server checks no shapes, and one vector would be broadcast to all candidates.
            shape = [tf.size(inputs["candidate_item_ids"]), self.model.item_embedding_dim]
            embeddings = tf.reshape(inputs["candidate_vectors"], shape)
        return self._rank(inputs, embeddings)

    def serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = self._example_inputs(examples)
        with self._constant_scope():
            return self._scores(self.model(inputs))

    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._example_inputs(examples)

    def concrete_functions(self) -> dict[str, Any]:
        one, many = tf.TensorSpec([1], tf.string), tf.TensorSpec([None], tf.string)
        specs = {
            "user_id": one,
            "history_item_ids": many,
            "history_ages": tf.TensorSpec([None], tf.int64),
            "candidate_item_ids": many,
            **dict.fromkeys(self.spec.context_features, one),
        }
        vectors = tf.TensorSpec([None, self.model.item_embedding_dim], tf.float32)
        attributes = dict.fromkeys(self.attributes.names if self.attributes else (), many)
        with_vectors = {**specs, **attributes, "candidate_vectors": vectors, "encoder_version": one}
        examples = tf.TensorSpec([None], tf.string, name="examples")
        functions = {
            "rank": tf.function(self.rank).get_concrete_function(**_with_names(specs)),
            "rank_with_vectors": tf.function(self.rank_with_vectors).get_concrete_function(**_with_names(with_vectors)),
            "serve_examples": tf.function(self.serve_examples).get_concrete_function(examples),
            "transform_features": tf.function(self.transform_features).get_concrete_function(examples),
        }
        if attributes:
            specs = _with_names({**specs, **attributes})
            functions["rank_with_attributes"] = tf.function(self.rank).get_concrete_function(**specs)
        return functions


def _warmup_requests(model: Ranker, spec: RankerSignatureSpec) -> Iterable[WarmupRequest]:
    """Requests for each signature and for the sizes that occur, from real rows and item ids."""
    rows = [tf.train.Example.FromString(example).features.feature for example in spec.examples]
    some = [str(item_id) for item_id in spec.item_ids[: max(CANDIDATES)]]
    shown = [value for row in rows for value in row["item_id"].bytes_list.value]
    candidates = as_bytes([*shown, *some][: max(CANDIDATES)])
    longest = max(rows, key=lambda row: len(row["history_item_ids"].bytes_list.value), default=None)
    for row in ([longest] if longest is not None else []) + [None]:  # with a history, and a cold-start user
        for size in CANDIDATES:
            inputs = _rank_inputs(row, repeat_to(candidates, size), spec.context_features)
            vectors = {
                "candidate_vectors": np.zeros((size, model.item_embedding_dim), np.float32),
                "encoder_version": as_bytes([spec.encoder_version]),
            }
            attributes = {f"{PREFIX}{name}": as_bytes([b""] * size) for name in spec.attributes}
            for outputs in ((), ("ctr",)):  # as the client asks, and for scores alone
                yield WarmupRequest("rank", inputs, outputs)
                yield WarmupRequest("rank_with_vectors", {**inputs, **attributes, **vectors}, outputs)
                if attributes:
                    yield WarmupRequest("rank_with_attributes", {**inputs, **attributes}, outputs)
    if spec.examples:
        for size in EXAMPLE_BATCHES:
            examples = repeat_to(as_bytes(spec.examples), size)
            yield WarmupRequest("serve_examples", {"examples": examples})
            yield WarmupRequest("transform_features", {"examples": examples})


def _rank_inputs(row: Any, candidates: np.ndarray, context_features: Sequence[str]) -> dict[str, np.ndarray]:
    def first(name: str) -> np.ndarray:
        values = [] if row is None else list(row[name].bytes_list.value)
        return as_bytes(values[:1] or [b""])

    return {
        "user_id": first("user_id"),
        "history_item_ids": as_bytes([] if row is None else row["history_item_ids"].bytes_list.value),
        "history_ages": np.array([] if row is None else row["history_ages"].int64_list.value, np.int64),
        "candidate_item_ids": candidates,
        **{name: first(name) for name in context_features},
    }


def _with_names(specs: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}


def _assert_equal_length(item_ids: tf.Tensor, ages: tf.Tensor) -> tf.Operation:
    rule = "history_item_ids and history_ages must be as long as each other; received lengths"
    lengths = tf.size(item_ids), tf.size(ages)
    return tf.raw_ops.Assert(condition=lengths[0] == lengths[1], data=[rule, *lengths])


def _pad_to(values: tf.Tensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` of values [n], padded at the end: [length]."""
    values = values[-length:]
    padding = tf.fill([length - tf.shape(values)[0]], tf.constant(default, values.dtype))
    return tf.ensure_shape(tf.concat([values, padding], axis=0), [length])
