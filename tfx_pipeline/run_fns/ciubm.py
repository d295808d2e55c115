"""Stage 3: ranking examples and a snapshot in, ranker out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components.catalogue_gen.executor import SPLITS as CATALOGUE_SPLITS
from components.examples import read_split
from components.history_gen.span_statistics import FIELDS, attributes_of
from components.item_attributes import LEARNED
from mim_keras.config import CiubmConfig, from_mapping
from mim_keras.layers import ItemTableData
from mim_keras.metrics import gauc, ranking_metrics
from mim_keras.models import Ranker, VocabularySizes, make_ranker
from mim_keras.serving.attribute_inputs import RawAttribute
from mim_keras.serving.calibration import Calibration, fit_calibration, reliability
from mim_keras.serving.signatures_ranker import RankerSignatureSpec, export_ranker, item_lookup
from mim_keras.training.ranking_dataset import Predictor
from mim_keras.training.run_training import log, set_seed_and_precision
from mim_keras.training.strategy import make_strategy
from mim_keras.training.train_ranker import compile_ranker, train_ranker
from mim_keras.training.warm_start import load_weights, save_weights
from serving.representation_center.snapshot import Snapshot
from tfx_pipeline.preprocessing import (
    ITEM_VOCABULARY,
    STATISTICS,
    USER_VOCABULARY,
    bucket_size,
    index_size,
    statistics_size,
)
from tfx_pipeline.run_fns.catalogue import Catalogue
from tfx_pipeline.run_fns.places import Checkpoints, model_run_folder
from tfx_pipeline.run_fns.ranking_examples import RankingExamples
from tfx_pipeline.run_fns.statistics import read_statistics

WARM_FOLDER = "Format-Weights"  # beside the SavedModel, for the next warm start; never pushed
WARM_UP_ROWS = 64


def run_fn(fn_args: Any) -> None:
    """Called by the Trainer; `custom_config` holds `ciubm` settings, the transform's settings, and the folders of
    the catalogue and the snapshot."""
    config = from_mapping(CiubmConfig, fn_args.custom_config["ciubm"])
    transform_config = fn_args.custom_config["transform"]
    context = tuple(transform_config["categorical_features"])
    training = config.training
    set_seed_and_precision(training)
    transform = tft.TFTransformOutput(fn_args.transform_graph_path)
    snapshot = Snapshot.load(fn_args.custom_config["embeddings"])
    catalogue = Catalogue.read(
        fn_args.custom_config["catalogue"], content=False, attributes=fn_args.custom_config["item_attributes"]
    )
    data = item_table_data(snapshot, catalogue, transform)
    lookup = item_lookup(snapshot.item_ids, Path(fn_args.model_run_dir) / "item_ids.txt")

    spec = transform.transformed_feature_spec()
    train = RankingExamples(fn_args.train_files, spec, lookup, config, context).for_training(data)
    strategy = make_strategy(training)
    with strategy.scope():
        model = make_ranker(config, vocabulary_sizes(transform, transform_config, context), data)
        compile_ranker(model, train.steps)
    valid = RankingExamples(fn_args.eval_files, spec, lookup, config, context).in_order(training.batch_size)
    keys = row_keys(transform, data, transform_config)
    inputs = input_names(transform_config, fn_args.custom_config["item_attributes"])
    if fn_args.base_model:
        with strategy.scope():
            known = load_weights(model, keys, Path(fn_args.base_model).parent / WARM_FOLDER, inputs)
        log.info("ciubm: starts from the last ranker, which knew %s", of_rows(known, keys))
    predict, checkpoints = Predictor(model), Checkpoints(fn_args, "ciubm")
    figures = train_ranker(
        model,
        train,
        evaluate=lambda: measure(predict, valid, transform_config["oov_buckets"]),
        log_folder=model_run_folder(fn_args.model_run_dir),
        checkpoint=checkpoints.files,
    )
    log.info("ciubm: %s", {name: round(values[-1], 4) for name, values in figures.items()})
    save_weights(model, keys, Path(fn_args.serving_model_dir).parent / WARM_FOLDER, inputs)
    layer = transform.transform_features_layer()
    attributes = attributes_of(transform_config["statistics"])
    statistics_table = fn_args.custom_config.get("statistics_table")
    signatures = RankerSignatureSpec(
        item_ids=snapshot.item_ids,
        item_lookup=lookup,
        transform=layer,
        transform_owner=layer,
        feature_spec=transform.raw_feature_spec(),
        context_features=context,
        encoder_version=snapshot.manifest.encoder_version,
        examples=raw_examples(fn_args.eval_files, transform, transform_config),
        statistics=read_statistics(statistics_table, attributes, snapshot.item_ids) if statistics_table else None,
        item_numbers=read_numbers(fn_args.custom_config["catalogue"], config, snapshot.item_ids),
        attributes=raw_attributes(data, catalogue, fn_args.custom_config["item_attributes"]),
        calibrations=fit_calibrations(model, valid, model_run_folder(fn_args.model_run_dir)),
    )
    export_ranker(model, signatures, Path(fn_args.serving_model_dir))
    checkpoints.delete()


def fit_calibrations(model: Ranker, valid: tf.data.Dataset, folder: Path) -> dict[str, Calibration]:
    """The calibration of each output that gains by one; `calibration.json` in `folder` has errors before and after it,
    on rows that were left out of the fit.

    Args:
        model: The trained ranker.
        valid: Batches of inputs and labels.
        folder: Of the logs of this training.
    """
    config = model.config
    if config.calibration == "none":
        return {}
    rows = [(inputs["user_index"].numpy(), label.numpy()) for inputs, label in valid]
    user = np.concatenate([users for users, _ in rows])
    labels = np.concatenate([label.reshape(len(label), -1) for _, label in rows])
    found: dict[str, Calibration] = {}
    figures: dict[str, Any] = {}
    for place, output in enumerate(config.label_outputs.values()):
        label, score = labels[:, place], Predictor(model, output)(inputs for inputs, _ in valid)
        fitted = fit_calibration(config.calibration, label, score, user)
        if fitted is None:
            log.info("ciubm: %s is not calibrated: too few validation rows of one of its values", output)
            continue
        kept = fitted.calibration is not None
        figures[output] = {"before": fitted.before, "after": fitted.after, "kept": kept}
        figures[output] |= {"points": reliability(label, score), "calibrated": reliability(label, fitted.held_out)}
        said = "calibrated" if kept else "not calibrated, which would gain nothing"
        log.info("ciubm: %s is %s: calibration error %.4f, %.4f", output, said, fitted.before, fitted.after)
        if fitted.calibration is not None:
            found[output] = fitted.calibration
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calibration.json").write_text(json.dumps(figures))
    return found


def read_numbers(catalogue: str, config: CiubmConfig, item_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of items that the final score names, float64 [items], NaN where there is none."""
    names = tuple(name for name in config.final_score if name not in config.label_outputs.values())
    if not names:
        return {}
    values: dict[bytes, tuple[bytes, ...]] = {}
    for split in CATALOGUE_SPLITS:
        for _, columns in read_split(catalogue, split, only=("item_id", *names)):
            rows = zip(*(columns[name].to_pylist() for name in names), strict=True)
            values.update(zip(columns["item_id"].to_pylist(), rows, strict=True))
    none = (b"",) * len(names)
    found = [[float(value or "nan") for value in values.get(item_id.encode(), none)] for item_id in item_ids]
    return dict(zip(names, np.array(found).reshape(-1, len(names)).T, strict=True))


def raw_attributes(data: ItemTableData, catalogue: Catalogue, kinds: dict[str, Any]) -> dict[str, RawAttribute]:
    """The attributes that a request may give for a candidate: all but those learned from content."""
    kinds, prefixes = {"category": "list", **kinds}, {name: f"{name}: " for name in kinds}
    found, first = {}, 0
    for (name, kind), slots in zip(kinds.items(), data.slots, strict=True):
        if name not in LEARNED:
            prefix = prefixes.get(name, "")
            codes = {data.values[code].removeprefix(prefix): code for code in data.codes_of(first, slots)}
            found[name] = RawAttribute(kind, codes, first, slots, catalogue.bounds.get(name))
        first += slots
    return found


def vocabulary_sizes(
    transform: tft.TFTransformOutput, transform_config: dict[str, Any], context: tuple[str, ...]
) -> VocabularySizes:
    """Sizes of the user embedding and of the context features."""
    return VocabularySizes(
        users=index_size(transform.vocabulary_size_by_name(USER_VOCABULARY), transform_config),
        context=tuple(
            bucket_size(transform_config)
            if name in transform_config["bucketed_features"]
            else index_size(transform.vocabulary_size_by_name(name), transform_config)
            for name in context
        ),
        statistics=statistics_size(transform_config),
    )


def row_keys(
    transform: tft.TFTransformOutput, data: ItemTableData, transform_config: dict[str, Any]
) -> dict[str, list[str]]:
    """What the rows of the model's tables stand for; "" is the row that all others share, or the first of these."""

    def learned(name: str, others: int) -> list[str]:
        vocabulary = [value.decode(errors="surrogateescape") for value in transform.vocabulary_by_name(name)]
        return ["", *(f"others {place}" for place in range(1, others)), *vocabulary]

    def context(name: str) -> list[str]:
        if name in transform_config["bucketed_features"]:
            keys = ["", *(f"bucket {place}" for place in range(1, bucket_size(transform_config)))]
        else:
            keys = learned(name, transform_config["oov_buckets"])
        return ["", *(f"{name}: {key}" for key in keys[1:])]

    return {
        "attribute": ["(none)", *data.values[1:]],
        "item": learned(ITEM_VOCABULARY, 1)[: int(data.id_index.max()) + 1],
        "user": learned(USER_VOCABULARY, transform_config["oov_buckets"]),
        **{f"context {place}": context(name) for place, name in enumerate(transform_config["categorical_features"])},
    }


def input_names(transform_config: dict[str, Any], attributes: Any) -> list[str]:
    """What weights that have no row for each value read and predict, in order: a warm start needs the same."""
    parts = {"label": transform_config["labels"], "feature": transform_config["categorical_features"]}
    parts |= {"attribute": attributes, "statistic": transform_config["statistics"]}
    dates = [f"date {place}" for place in range(transform_config["dates"] if transform_config["statistics"] else 0)]
    return [*(f"{kind} {name}" for kind, names in parts.items() for name in names), *dates]


def of_rows(known: dict[str, int], keys: dict[str, list[str]]) -> str:
    """For the log: how much of each table a warm start knew."""
    return ", ".join(f"{count:,} of {len(keys[name]):,} rows of {name}" for name, count in known.items())


def item_table_data(snapshot: Snapshot, catalogue: Catalogue, transform: tft.TFTransformOutput) -> ItemTableData:
    """The ranker's item table: vectors of the snapshot, attributes of the catalogue, ids learned in training."""
    learned = {item_id: index for index, item_id in enumerate(transform.vocabulary_by_name(ITEM_VOCABULARY), 1)}
    id_index = np.array([learned.get(item_id.encode(), 0) for item_id in snapshot.item_ids], np.int32)
    row_of = {item_id.decode(): row for row, item_id in enumerate(catalogue.item_id)}
    rows = [row_of.get(item_id) for item_id in snapshot.item_ids]
    categories, *attributes = (
        [[] if row is None else column[row] for row in rows]
        for column in (catalogue.categories, *catalogue.attributes.values())
    )
    named = dict(zip(catalogue.attributes, attributes, strict=True))
    return ItemTableData.from_items(snapshot.vectors, snapshot.modalities > 0, categories, id_index, named)


def raw_examples(
    patterns: list[str], transform: tft.TFTransformOutput, transform_config: dict[str, Any], count: int = WARM_UP_ROWS
) -> list[bytes]:
    """The first transformed tf.Examples as they were before the transform, as clients send them; numbers
    and statistics as zero."""
    vocabularies = {"user_id": transform.vocabulary_by_name(USER_VOCABULARY)}
    for name in transform_config["categorical_features"]:
        vocabularies[name] = [] if name in transform_config["bucketed_features"] else transform.vocabulary_by_name(name)
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    raw = []
    for record in tf.data.TFRecordDataset(files, "GZIP").take(count).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        feature = example.features.feature
        for name, vocabulary in vocabularies.items():
            index_name = "user_index" if name == "user_id" else f"{name}_index"
            place = feature[index_name].int64_list.value[0] - transform_config["oov_buckets"]
            del feature[index_name]
            value = vocabulary[place] if 0 <= place < len(vocabulary) else b"" if vocabulary else b"0"
            feature[name].bytes_list.value.append(value)
        if entities := len(transform_config["statistics"]):
            del feature[STATISTICS]
            feature[STATISTICS].int64_list.value.extend([0] * (len(FIELDS) * entities + transform_config["dates"]))
        raw.append(example.SerializeToString())
    return raw


def measure(
    predict: Callable[[Iterator[dict[str, tf.Tensor]]], np.ndarray], dataset: tf.data.Dataset, others: int
) -> dict[str, float]:
    """Of the click, AUC and LogLoss over all rows of `dataset`, GAUC over those of known users; those behind the first
    `others` rows of the table of users, which many share."""
    users, labels = [], []

    def inputs() -> Iterator[dict[str, tf.Tensor]]:
        for read, label in dataset:
            users.append(read["user_index"].numpy())
            labels.append(label.numpy().reshape(len(label), -1)[:, 0])
            yield read

    score = predict(inputs())
    user, label = np.concatenate(users), np.concatenate(labels)
    figures, known = ranking_metrics(user, label, score), user >= others
    return {**figures, "gauc": gauc(user[known], label[known], score[known])} if known.any() else figures


def curves(model_run: str) -> dict[str, list[float]]:
    """The figures of each epoch that `run_fn` left in the ModelRun artifact."""
    figures: dict[str, list[float]] = json.loads((model_run_folder(model_run) / "history.json").read_text())
    return figures
