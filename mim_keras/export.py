"""SavedModels of the encoder and the ranker, with the signatures that serving and evaluation call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mim_keras.encoders.content import ContentReader, trim_tokens
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.export_extras import EXTRA, Request, of_size, texts, write_batching, write_facts, write_warm_up
from mim_keras.ranker_ensemble import Ranker

ENCODER_FOLDER = f"{EXTRA}/encoder"

# Sizes of batch that occur: one item as it appears, a page of them, a watcher's or a feed's.
CONTENT_BATCHES = (1, 8, 32)
CANDIDATES = (1, 10, 100, 500)
EXAMPLE_BATCHES = (1, 8, 64)
MAX_CONSTANT = 1 << 16  # values; larger weights, the tables above all, stay variables


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


Content = tuple[bytes, bytes, bytes]  # image, title, text


def export_encoder(
    encoder: ItemEncoder, words: TextReader, folder: Path, contents: Sequence[Content] = ((b"", b"warm up", b""),)
) -> str:
    """Writes the SavedModel `mim_encoder`.

    Signatures: `serving_default` (image, title, text: string [B] → embedding float32 [B, d]) and `embed_examples`
    (tf.Example [B] → item_id, embedding).  Both also answer with `encoder_version` string [B], so that no vector
    travels without it.  The Keras weights lie beside the graph, for the next stage.

    Args:
        encoder: To be served.
        words: What its towers for words read.
        folder: Where the SavedModel goes.
        contents: Real ones, of which the warm-up requests are made.

    Returns:
        The encoder's digest.
    """
    module = tf.Module()
    module.tracked = _variables(encoder.variables)
    module.tables = words.tables
    reader = ContentReader(encoder.config, words)
    digest = weights_digest(encoder.variables)
    version = encoder_version(digest)

    def embed(image: tf.Tensor, title: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = tf.cast(encoder(trim_tokens(reader(image, title, text)))["vector"], tf.float32)
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
    encoder.save_to(folder / ENCODER_FOLDER, words)
    facts = {"kind": "encoder", "digest": digest, "version": version, "dimension": encoder.vector_dim}
    write_facts(folder, facts)
    write_batching(folder)
    write_warm_up(folder, _content_requests(contents))
    return digest


def _content_requests(contents: Sequence[Content]) -> Iterable[Request]:
    names = ("image", "title", "text")
    columns = {name: texts(content[place] for content in contents) for place, name in enumerate(names)}
    examples = []
    for content in contents[: max(CONTENT_BATCHES)]:
        example = tf.train.Example()
        for name, value in zip(names, content, strict=True):
            example.features.feature[name].bytes_list.value.append(value)
        example.features.feature["item_id"].bytes_list.value.append(b"warm up")
        examples.append(example.SerializeToString())
    for size in CONTENT_BATCHES:
        yield Request("serving_default", {name: of_size(column, size) for name, column in columns.items()})
        yield Request("embed_examples", {"examples": of_size(texts(examples), size)})


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
        examples: Real raw tf.Examples, serialised, of which the warm-up requests are made.
    """

    item_ids: np.ndarray
    rows: ItemRows
    transform: Callable[[dict[str, Any]], dict[str, Any]]
    transform_owner: Any
    feature_spec: dict[str, Any]
    context_features: tuple[str, ...]
    encoder_version: str
    examples: Sequence[bytes] = ()


def export_ranker(model: Ranker, serving: RankerServing, folder: Path) -> None:
    """Writes the SavedModel `mim_ranker` with the signatures `rank`, `rank_with_vectors`, `serve_examples` and
    `transform_features`.

    `rank` answers `ctr` float32 [N], `has_vector` bool [N], false for a candidate whose content the ranker has not
    seen, and `encoder_version` string [1].  `rank_with_vectors` takes the version the vectors are of, and refuses
    any other than the ranker's own.

    Args:
        model: The trained ranker.
        serving: Vocabulary and transform.
        folder: Where the SavedModel goes.

    It carries no batching parameters: a server that batched it would refuse `rank`, whose inputs differ in length.
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
        "dimension": model.vector_dim,
        "history_length": model.config.history_length,
        "context_features": list(serving.context_features),
    }
    write_facts(folder, facts)
    write_warm_up(folder, functions.warm_up())


def latest(values: tf.SparseTensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` values of each row of a sparse [B, *], padded behind: [B, length]."""
    return tf.RaggedTensor.from_sparse(values)[:, -length:].to_tensor(default, shape=[None, length])


class _RankerFunctions:
    def __init__(self, model: Ranker, serving: RankerServing) -> None:
        self.model, self.serving, self.rows = model, serving, serving.rows
        self.length = model.config.history_length
        small = [variable for variable in model.variables if np.prod(variable.shape) <= MAX_CONSTANT]
        self._small = [(variable, variable.numpy()) for variable in small]

    def _with_constants(self) -> keras.StatelessScope:
        """A scope in which small weights are constants of the graph.

        A request runs a few hundred operations of a microsecond each, and three of them for every variable it reads.
        """
        return keras.StatelessScope([(variable, tf.constant(value)) for variable, value in self._small])

    def _context(self, transformed: dict[str, tf.Tensor]) -> tf.Tensor | None:
        names = self.serving.context_features
        if not names:
            return None
        return tf.concat([tf.cast(transformed[f"{name}_index"], tf.int32) for name in names], axis=1)

    def _score(
        self, inputs: dict[str, tf.Tensor], candidates: tf.Tensor, vectors: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        with self._with_constants():
            return self._scored(inputs, candidates, vectors)

    def _scored(
        self, inputs: dict[str, tf.Tensor], candidates: tf.Tensor, vectors: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        item_ids, ages = inputs["history_item_ids"], inputs["history_ages"]
        with tf.control_dependencies([_as_long(item_ids, ages)]):
            ages = tf.identity(ages)
        raw = {"user_id": inputs["user_id"][:, None]}
        raw |= {name: inputs[name][:, None] for name in self.serving.context_features}
        transformed = self.serving.transform(raw)
        history = self.model.encode_history(
            self.rows(_pad(item_ids, self.length, ""))[None, :],
            _pad(ages, self.length, 0)[None, :],
        )
        user_index = tf.cast(transformed["user_index"][:, 0], tf.int32)
        rows = self.rows(candidates)
        return {
            "ctr": self.model.score(history, rows, user_index, self._context(transformed), vectors)["ctr"],
            "has_vector": self.model.has_vector(rows),
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
        vectors = tf.TensorSpec([None, self.model.vector_dim], tf.float32)
        examples = tf.TensorSpec([None], tf.string, name="examples")

        def rank(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._score(inputs, inputs["candidate_item_ids"], None)

        def rank_with_vectors(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            own = self.serving.encoder_version
            rule = f"candidate_vectors must be of encoder {own}, which this ranker was trained on; received vectors of"
            same = tf.raw_ops.Assert(
                condition=tf.reduce_all(inputs["encoder_version"] == own), data=[rule, inputs["encoder_version"]]
            )
            with tf.control_dependencies([same]):
                # Whatever was sent: a server checks no shapes, and one vector would do for all candidates.
                shape = [tf.size(inputs["candidate_item_ids"]), self.model.vector_dim]
                vectors = tf.reshape(inputs["candidate_vectors"], shape)
            return self._score(inputs, inputs["candidate_item_ids"], vectors)

        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            with self._with_constants():
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

    def warm_up(self) -> Iterable[Request]:
        """Requests for each signature and for the sizes that occur, made of real rows; of the first items without."""
        rows = [tf.train.Example.FromString(example).features.feature for example in self.serving.examples]
        some = [str(item_id) for item_id in self.serving.item_ids[: max(CANDIDATES)]]
        seen = [value for row in rows for value in row["item_id"].bytes_list.value]
        candidates = texts([*seen, *some][: max(CANDIDATES)])
        longest = max(rows, key=lambda row: len(row["history_item_ids"].bytes_list.value), default=None)
        for user in ([longest] if longest is not None else []) + [None]:  # with a history, and a newcomer
            for size in CANDIDATES:
                inputs = self._rank_inputs(user, of_size(candidates, size))
                vectors = {
                    "candidate_vectors": np.zeros((size, self.model.vector_dim), np.float32),
                    "encoder_version": texts([self.serving.encoder_version]),
                }
                for outputs in ((), ("ctr",)):  # as our clients ask, and as those who want scores alone
                    yield Request("rank", inputs, outputs)
                    yield Request("rank_with_vectors", {**inputs, **vectors}, outputs)
        if self.serving.examples:
            for size in EXAMPLE_BATCHES:
                examples = of_size(texts(self.serving.examples), size)
                yield Request("serve_examples", {"examples": examples})
                yield Request("transform_features", {"examples": examples})

    def _rank_inputs(self, row: Any, candidates: np.ndarray) -> dict[str, np.ndarray]:
        def first(name: str) -> np.ndarray:
            values = [] if row is None else list(row[name].bytes_list.value)
            return texts(values[:1] or [b""])

        history = [] if row is None else list(row["history_item_ids"].bytes_list.value)
        ages = [] if row is None else list(row["history_ages"].int64_list.value)
        return {
            "user_id": first("user_id"),
            "history_item_ids": texts(history),
            "history_ages": np.array(ages, np.int64),
            "candidate_item_ids": candidates,
            **{name: first(name) for name in self.serving.context_features},
        }


def _named(specs: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}


def _as_long(item_ids: tf.Tensor, ages: tf.Tensor) -> tf.Operation:
    rule = "history_item_ids and history_ages must be as long as each other; received lengths"
    lengths = tf.size(item_ids), tf.size(ages)
    return tf.raw_ops.Assert(condition=lengths[0] == lengths[1], data=[rule, *lengths])


def _pad(values: tf.Tensor, length: int, default: Any) -> tf.Tensor:
    """The last `length` of values [n], padded behind: [length]."""
    values = values[-length:]
    padding = tf.fill([length - tf.shape(values)[0]], tf.constant(default, values.dtype))
    return tf.ensure_shape(tf.concat([values, padding], axis=0), [length])
