"""What int8 costs: the cosine of every vector to its float32, and the ranker's AUC with the one and the other.

    mim bench quantisation --config ml-small --root ROOT      (ROOT: what was given to `mim run`)

Of a run whose snapshot is int8 and whose ranker is one (`ciubm.ensemble_split_dim: 0`).

The ranker of the run is built again from its SavedModel, once with the snapshot's int8 vectors and once with the
float32 vectors that the run's encoder gives, and both score the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish

COSINE_TARGET, AUC_TARGET = 0.999, 0.0005
BATCH = 2_048


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--root", required=True, type=Path)
    arguments = parser.parse_args(words)
    import components  # noqa: F401  before TensorFlow, as everywhere
    from mim_keras.metrics import auc, gauc
    from serving.representation_center.snapshot import Snapshot
    from serving.representation_center.vectors import restore_vectors
    from tfx_pipeline.settings import Settings

    root, settings = arguments.root, Settings.load(arguments.config)
    snapshot = Snapshot.load(newest(root, "EmbeddingExporter/embeddings"))
    if snapshot.vectors.dtype != np.int8 or settings.stages.ciubm.ensemble_split_dim:
        parser.error(f"the snapshot must be int8, and the ranker one; --config {arguments.config} makes others")
    floats = encode(root, snapshot.item_ids)
    there = snapshot.modalities > 0
    restored = restore_vectors(snapshot.vectors[there])
    cosine = (
        (restored * floats[there]).sum(1) / np.linalg.norm(restored, axis=1) / np.linalg.norm(floats[there], axis=1)
    )
    label, user, small, exact = scores(root, settings, snapshot.vectors, floats)
    figures = {
        "vectors": int(there.sum()),
        "least_cosine": round(float(cosine.min()), 6),
        "mean_cosine": round(float(cosine.mean()), 6),
        "rows": len(label),
        "auc_int8": round(auc(label, small), 6),
        "auc_float32": round(auc(label, exact), 6),
        "gauc_int8": round(gauc(user, label, small), 6),
        "gauc_float32": round(gauc(user, label, exact), 6),
        "largest_score_difference": round(float(np.abs(small - exact).max()), 5),
    }
    difference = abs(figures["auc_int8"] - figures["auc_float32"])
    met = figures["least_cosine"] >= COSINE_TARGET and difference <= AUC_TARGET
    name = f"quantisation_{arguments.config}"
    publish(name, round(difference, 6), "AUC", AUC_TARGET, figures, met, less_is_better=True)


def newest(root: Path, output: str) -> Path:
    """The newest artifact of a node's output in a local run."""
    return max((root / "artifacts" / output).iterdir(), key=lambda path: int(path.name))


def encode(root: Path, item_ids: np.ndarray) -> np.ndarray:
    """float32 vectors of the run's encoder, in the snapshot's order."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    model = tf.saved_model.load(str(newest(root, "Trainer.csft/model") / "Format-Serving"))
    embed = model.signatures["embed_examples"]
    vectors: dict[bytes, np.ndarray] = {}
    for file in sorted(newest(root, "CatalogueGen/items").glob("Split-*/*")):
        for batch in tf.data.TFRecordDataset(str(file), "GZIP").batch(256):
            answer = embed(examples=batch)
            vectors.update(zip(answer["item_id"].numpy(), answer["embedding"].numpy(), strict=True))
    return np.stack([vectors[item_id.encode()] for item_id in item_ids])


def scores(root: Path, settings: Any, stored: np.ndarray, floats: np.ndarray) -> tuple[np.ndarray, ...]:
    """(labels, users, scores with the stored vectors, scores with floats) of the test split."""
    import tensorflow as tf
    import tensorflow_transform as tft

    from tfx_pipeline.preprocessing import USER_VOCABULARY

    folder = newest(root, "Trainer.ciubm/model") / "Format-Serving"
    served = tf.saved_model.load(str(folder))
    transform = tft.TFTransformOutput(str(newest(root, "Transform/transform_graph")))
    count = transform.vocabulary_size_by_name(USER_VOCABULARY) + 1
    small, exact = rebuild(served, settings, count, stored), rebuild(served, settings, count, floats)
    calls = [tf.function(lambda inputs, model=model: model(inputs)["ctr"]) for model in (small, exact)]
    features = {"clicked": tf.io.FixedLenFeature([], tf.int64), "user_id": tf.io.FixedLenFeature([], tf.string)}
    labels, users, found = [], [], ([], [])  # type: ignore[var-annotated]
    for number, file in enumerate(sorted((newest(root, "HistoryGen/examples") / "Split-test").iterdir())):
        for examples in tf.data.TFRecordDataset(str(file), "GZIP").batch(BATCH):
            inputs = served.signatures["transform_features"](examples=examples)
            for out, call in zip(found, calls, strict=True):
                out.append(call(inputs).numpy())
            if not labels and number == 0:  # the rebuilt model is the served one
                own = served.signatures["serve_examples"](examples=examples)["ctr"].numpy()
                np.testing.assert_allclose(found[0][0], own, atol=1e-5)
            parsed = tf.io.parse_example(examples, features)
            labels.append(parsed["clicked"].numpy())
            users.append(parsed["user_id"].numpy())
    return (np.concatenate(labels), np.concatenate(users), *(np.concatenate(part) for part in found))


def rebuild(served: Any, settings: Any, users: int, vectors: np.ndarray) -> Any:
    """The ranker with other vectors in its table."""
    from mim_keras import CiUBM, ItemTable, ItemTableData, VocabularySizes

    saved = list(served.tracked)
    table = next(index for index, variable in enumerate(saved) if variable.dtype.name == "int8")
    data = ItemTableData(
        embeddings=np.concatenate([np.zeros((1, vectors.shape[1]), vectors.dtype), vectors]),
        has_embedding=saved[table + 1].numpy() > 0,
        categories=saved[table + 2].numpy(),
        id_index=saved[table + 3].numpy(),
    )
    model = CiUBM(settings.stages.ciubm, VocabularySizes(users), ItemTable.from_data(data))
    for index, (variable, value) in enumerate(zip(model.variables, saved, strict=True)):
        if index != table:
            variable.assign(value.numpy())
    return model


if __name__ == "__main__":
    main()
