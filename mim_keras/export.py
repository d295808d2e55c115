"""SavedModels of the encoder and the ranker, with the signatures that serving and evaluation call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from mim_keras.ciubm import CiUBM
from mim_keras.encoders.content import ContentReader, trim_tokens
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_tower import TextTokens

EXTRA = "assets.extra"
ENCODER_FOLDER = f"{EXTRA}/encoder"
FACTS = f"{EXTRA}/mim.json"

BATCHING = """max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""


def weights_digest(variables: Iterable[Any]) -> str:
    """sha256 over values and shapes of Keras variables, in order."""
    digest = hashlib.sha256()
    for variable in variables:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(str((values.dtype, values.shape)).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def encoder_version(digest: str) -> str:
    """The short name of an encoder: the first twelve digits of its digest."""
    return digest[:12]


def _variables(variables: Iterable[Any]) -> list[tf.Variable]:
    """The TensorFlow variables behind Keras variables: tracked alone, so that no optimiser state is exported."""
    return [variable.value if isinstance(variable.value, tf.Variable) else variable._value for variable in variables]


def _finish(folder: Path, facts: Mapping[str, Any], warm_up: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes what belongs beside the graph: facts, batching parameters and warm-up records."""
    (folder / EXTRA).mkdir(exist_ok=True)
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "batching_params.pbtxt").write_text(BATCHING)
    with tf.io.TFRecordWriter(str(folder / EXTRA / "tf_serving_warmup_requests")) as writer:
        for signature, inputs in warm_up.items():
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="warm-up", signature_name=signature),
                inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
            )
            record = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(record.SerializeToString())


def export_encoder(encoder: ItemEncoder, tokens: TextTokens, folder: Path) -> str:
    """Writes the SavedModel `mim_encoder`.

    Signatures: `serving_default` (image, title, text: string [B] → embedding float32 [B, d]) and `embed_examples`
    (tf.Example [B] → item_id, embedding).  Both also answer with `encoder_version` string [B], so that no vector
    travels without it.  The Keras weights lie beside the graph, for the next stage.

    Returns:
        The encoder's digest.
    """
    module = tf.Module()
    module.tracked = _variables(encoder.variables)
    module.tokenizer = tokens.tokenizer  # holds the word-piece table
    reader = ContentReader(encoder.config, tokens)
    digest = weights_digest(encoder.variables)
    version = encoder_version(digest)

    def embed(image: tf.Tensor, title: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = tf.cast(encoder(trim_tokens(reader(image, title, text)))["joint"], tf.float32)
        return {"embedding": embedding, "encoder_version": tf.fill(tf.shape(image), version)}

    strings = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[strings, strings, strings])
    def serve(image: tf.Tensor, title: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed(image, title, text)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def embed_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        text = {name: tf.io.FixedLenFeature([], tf.string, "") for name in ("item_id", "image", "title", "text")}
        parsed = tf.io.parse_example(examples, text)
        return {"item_id": parsed["item_id"], **embed(parsed["image"], parsed["title"], parsed["text"])}

    tf.saved_model.save(module, str(folder), {"serving_default": serve, "embed_examples": embed_examples})
    encoder.save_to(folder / ENCODER_FOLDER, tokens)
    empty = np.array([b""], object)
    one = {"image": empty, "title": np.array([b"warm up"], object), "text": empty}
    facts = {"kind": "encoder", "digest": digest, "version": version, "dimension": encoder.config.embedding_dim}
    _finish(folder, facts, {"serving_default": one})
    return digest


class ItemRows:
    """item_id strings of any shape → rows of the item table, int32; 0 for an id the table lacks.

    Args:
        item_ids: In the table's order, without its padding row.
        vocabulary_file: Where they are written, an id a line; must stay until the ranker is exported.
    """

    def __init__(self, item_ids: np.ndarray, vocabulary_file: Path) -> None:
        vocabulary_file.parent.mkdir(parents=True, exist_ok=True)
        vocabulary_file.write_text("".join(f"{item_id}\n" for item_id in item_ids))
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(vocabulary_file),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            default_value=-1,
        )

    def __call__(self, item_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.table.lookup(item_ids) + 1, tf.int32)


@dataclass
class RankerServing:
    """What a ranker's SavedModel needs beside the model.

    Attributes:
        item_ids: Ids in the order of the model's item table, without the padding row.
        rows: The same, as a lookup; its vocabulary file is copied into the SavedModel.
        transform: Raw features → `user_index` and, for each context feature NAME, `NAME_index`; all [B, 1].
        transform_owner: What holds the resources of `transform`, to be saved with it.
        feature_spec: How to parse raw tf.Examples; a superset of what is needed.
        context_features: Names, in the order of the model's context features.
        encoder_version: Of the snapshot in the item table.
    """

    item_ids: np.ndarray
    rows: ItemRows
    transform: Callable[[dict[str, Any]], dict[str, Any]]
    transform_owner: Any
    feature_spec: dict[str, Any]
    context_features: tuple[str, ...]
    encoder_version: str


def export_ranker(model: CiUBM, serving: RankerServing, folder: Path) -> None:
    """Writes the SavedModel `mim_ranker` with the signatures `rank`, `rank_with_vectors`, `serve_examples` and
    `transform_features`.

    `rank` answers `ctr` float32 [N], `has_vector` bool [N], false for a candidate whose content the ranker has not
    seen, and `encoder_version` string [1].  `rank_with_vectors` takes the version the vectors are of, and refuses
    any other than the ranker's own.

    Args:
        model: The trained ranker.
        serving: Vocabulary and transform.
        folder: Where the SavedModel goes.
    """
    functions = _RankerFunctions(model, serving)
    module = tf.Module()
    module.tracked = _variables(model.variables)
    module.items, module.transform = serving.rows.table, serving.transform_owner
    tf.saved_model.save(module, str(folder), functions.signatures())
    facts = {
        "kind": "ranker",
        "encoder_version": serving.encoder_version,
        "items": len(serving.item_ids),
        "dimension": model.items.dim,
        "history_length": model.config.history_length,
        "context_features": list(serving.context_features),
    }
    _finish(folder, facts, {"rank": functions.warm_up(8), "rank_with_vectors": functions.warm_up(8, vectors=True)})


def latest(values: tf.SparseTensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` values of each row of a sparse [B, *], padded behind: [B, length]."""
    return tf.RaggedTensor.from_sparse(values)[:, -length:].to_tensor(default, shape=[None, length])


class _RankerFunctions:
    def __init__(self, model: CiUBM, serving: RankerServing) -> None:
        self.model, self.serving, self.rows = model, serving, serving.rows
        self.length = model.config.history_length

    def _context(self, transformed: dict[str, tf.Tensor]) -> tf.Tensor | None:
        names = self.serving.context_features
        if not names:
            return None
        return tf.concat([tf.cast(transformed[f"{name}_index"], tf.int32) for name in names], axis=1)

    def _score(
        self, inputs: dict[str, tf.Tensor], candidates: tf.Tensor, vectors: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        raw = {"user_id": inputs["user_id"][:, None]}
        raw |= {name: inputs[name][:, None] for name in self.serving.context_features}
        transformed = self.serving.transform(raw)
        history = self.model.encode_history(
            self.rows(_pad(inputs["history_item_ids"], self.length, ""))[None, :],
            _pad(inputs["history_ages"], self.length, 0)[None, :],
        )
        user_index = tf.cast(transformed["user_index"][:, 0], tf.int32)
        rows = self.rows(candidates)
        return {
            "ctr": self.model.score(history, rows, user_index, self._context(transformed), vectors)["ctr"],
            "has_vector": self.model.items(rows)["has_vector"],
            "encoder_version": tf.constant([self.serving.encoder_version]),
        }

    def _example_inputs(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        wanted = {"user_id", "item_id", "history_item_ids", "history_ages", *self.serving.context_features}
        spec = {name: feature for name, feature in self.serving.feature_spec.items() if name in wanted}
        raw = tf.io.parse_example(examples, spec)
        transformed = self.serving.transform(raw)
        inputs = {
            "item_row": self.rows(raw["item_id"][:, 0]),
            "history_rows": self.rows(latest(raw["history_item_ids"], self.length, "")),
            "history_ages": latest(raw["history_ages"], self.length, 0),
            "user_index": tf.cast(transformed["user_index"][:, 0], tf.int32),
        }
        context = self._context(transformed)
        return inputs if context is None else {**inputs, "context": context}

    def signatures(self) -> dict[str, Any]:
        one, many = tf.TensorSpec([1], tf.string), tf.TensorSpec([None], tf.string)
        specs = {
            "user_id": one,
            "history_item_ids": many,
            "history_ages": tf.TensorSpec([None], tf.int64),
            "candidate_item_ids": many,
            **dict.fromkeys(self.serving.context_features, one),
        }
        vectors = tf.TensorSpec([None, self.model.items.dim], tf.float32)
        examples = tf.TensorSpec([None], tf.string, name="examples")

        def rank(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._score(inputs, inputs["candidate_item_ids"], None)

        def rank_with_vectors(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            own = self.serving.encoder_version
            rule = f"candidate_vectors must be of encoder {own}, which this ranker was trained on; received vectors of"
            same = tf.debugging.Assert(
                tf.reduce_all(inputs["encoder_version"] == own), [rule, inputs["encoder_version"]]
            )
            with tf.control_dependencies([same]):
                vectors = tf.identity(inputs["candidate_vectors"])
            return self._score(inputs, inputs["candidate_item_ids"], vectors)

        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"ctr": self.model(self._example_inputs(examples))["ctr"]}

        def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._example_inputs(examples)

        return {
            "rank": tf.function(rank).get_concrete_function(**_named(specs)),
            "rank_with_vectors": tf.function(rank_with_vectors).get_concrete_function(
                **_named({**specs, "candidate_vectors": vectors, "encoder_version": one})
            ),
            "serve_examples": tf.function(serve_examples).get_concrete_function(examples),
            "transform_features": tf.function(transform_features).get_concrete_function(examples),
        }

    def warm_up(self, candidates: int, vectors: bool = False) -> dict[str, np.ndarray]:
        """Inputs of `rank` made of the first items of the table."""
        ids = np.array([str(item_id).encode() for item_id in self.serving.item_ids[:candidates]], object)
        inputs = {
            "user_id": np.array([b""], object),
            "history_item_ids": ids,
            "history_ages": np.arange(len(ids), dtype=np.int64)[::-1].copy(),
            "candidate_item_ids": ids,
            **{name: np.array([b""], object) for name in self.serving.context_features},
        }
        if vectors:
            inputs["candidate_vectors"] = np.zeros((len(ids), self.model.items.dim), np.float32)
            inputs["encoder_version"] = np.array([self.serving.encoder_version.encode()], object)
        return inputs


def _named(specs: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}


def _pad(values: tf.Tensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` of values [n], padded behind: [length]."""
    values = values[-length:]
    padding = tf.fill([length - tf.shape(values)[0]], tf.constant(default, values.dtype))
    return tf.ensure_shape(tf.concat([values, padding], axis=0), [length])
