"""The SavedModel of the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mim_keras.config import to_mapping
from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentPreprocessor, trim_to_longest
from mim_keras.serving.assets import (
    EXTRA,
    encoder_version,
    tensorflow_variables,
    weights_digest,
    write_batching,
    write_metadata,
)
from mim_keras.serving.warmup import WarmupRequest, as_bytes, repeat_to, write_warmup

ENCODER_FOLDER = f"{EXTRA}/encoder"  # the encoder and its preprocessor as presets, for the next stage
CONTENT_BATCHES = (1, 8, 32)  # batch sizes that occur: a new item, a page, a feed
RawContent = tuple[bytes, bytes, bytes]  # image, title, text


def export_encoder(
    encoder: ItemEncoder,
    preprocessor: ContentPreprocessor,
    folder: Path,
    contents: Sequence[RawContent] = ((b"", b"warm up", b""),),
) -> str:
    """Writes the SavedModel `mim_encoder`.

    Signatures: `serving_default` (image, title, text: string [B] → embedding float32 [B, d]) and `embed_examples`
    (tf.Example [B] → item_id, embedding).  Both return `encoder_version` string [B], so that no embedding travels
    without it.  Ready-made embeddings are read as float [B, dim] inputs, and features, of the same name.

    Args:
        encoder: To be served.
        preprocessor: Of its inputs.
        folder: Where the SavedModel goes.
        contents: Real ones, for the warm-up requests.

    Returns:
        The encoder's digest.
    """
    module = tf.Module()
    module.tracked = tensorflow_variables(encoder.variables)
    module.tables = preprocessor.text.trackables
    digest = weights_digest(encoder.variables)
    version = encoder_version(digest)
    tf.saved_model.save(module, str(folder), _signatures(encoder, preprocessor, version))
    encoder.save_to_preset(folder / ENCODER_FOLDER)
    preprocessor.save_to_preset(folder / ENCODER_FOLDER)
    metadata = {
        "kind": "encoder",
        "digest": digest,
        "version": version,
        "dimension": encoder.item_embedding_dim,
        "embeddings": [to_mapping(tower) for tower in preprocessor.config.embeddings],
    }
    write_metadata(folder, metadata)
    write_batching(folder)
    if not preprocessor.config.embeddings:  # a request would need real embeddings
        write_warmup(folder, _warmup_requests(contents))
    return digest


def _signatures(encoder: ItemEncoder, preprocessor: ContentPreprocessor, version: str) -> dict[str, Any]:
    ready_made = {tower.name: tower.dim for tower in preprocessor.config.embeddings}

    def embed(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = {name: inputs[name] for name in ready_made}
        content = trim_to_longest(preprocessor(inputs["image"], inputs["title"], inputs["text"], given))
        embedding = tf.cast(encoder(content)["embedding"], tf.float32)
        return {"embedding": embedding, "encoder_version": tf.fill(tf.shape(inputs["image"]), version)}

    names = ("image", "title", "text")
    specs = {name: tf.TensorSpec([None], tf.string, name=name) for name in names}
    specs |= {name: tf.TensorSpec([None, dim], tf.float32, name=name) for name, dim in ready_made.items()}

    @tf.function
    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return embed(inputs)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def embed_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = {name: tf.io.FixedLenFeature([], tf.string, "") for name in ("item_id", *names)}
        features |= {name: tf.io.FixedLenFeature([dim], tf.float32, [0.0] * dim) for name, dim in ready_made.items()}
        parsed = tf.io.parse_example(examples, features)
        return {"item_id": parsed["item_id"], **embed(parsed)}

    return {"serving_default": serve.get_concrete_function(**specs), "embed_examples": embed_examples}


def load_encoder(folder: Path) -> tuple[ItemEncoder, ContentPreprocessor]:
    """An encoder and its preprocessor, from a folder with both presets."""
    return ItemEncoder.from_preset(folder), ContentPreprocessor.from_preset(folder)


def _warmup_requests(contents: Sequence[RawContent]) -> Iterable[WarmupRequest]:
    names = ("image", "title", "text")
    columns = {name: as_bytes(content[index] for content in contents) for index, name in enumerate(names)}
    examples = []
    for content in contents[: max(CONTENT_BATCHES)]:
        example = tf.train.Example()
        for name, value in zip(names, content, strict=True):
            example.features.feature[name].bytes_list.value.append(value)
        example.features.feature["item_id"].bytes_list.value.append(b"warm up")
        examples.append(example.SerializeToString())
    for size in CONTENT_BATCHES:
        yield WarmupRequest("serving_default", {name: repeat_to(column, size) for name, column in columns.items()})
        yield WarmupRequest("embed_examples", {"examples": repeat_to(as_bytes(examples), size)})
