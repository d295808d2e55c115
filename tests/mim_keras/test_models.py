"""The encoder and the ranker as wholes: missing modalities, unknown ids, and one score however it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.ciubm import CiUBM, RankerShape
from mim_keras.config import ConfigError, TrainingConfig, preset
from mim_keras.encoders.content import ContentReader
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.encoders.text_tower import make_vocabulary
from mim_keras.export import ItemRows, RankerServing, export_encoder, export_ranker
from mim_keras.export_extras import FACTS
from mim_keras.item_table import ItemColumns
from mim_keras.metrics.gauc import auc
from mim_keras.training.batches import hide_some_ids
from mim_keras.training.strategy import make_strategy
from tfx_pipeline.importers.sample_pictures import draw_picture

ITEMS, D, L = 12, 16, 8
WORDS = ["red striped heart mug", "blue dotted star lamp", "green plain circle rug"] * 5


@pytest.fixture(scope="module")
def encoder() -> tuple[ItemEncoder, TextReader]:
    keras.utils.set_random_seed(1)
    config = preset("tiny").encoder
    words, _ = TextReader.fit(config, WORDS)
    made = ItemEncoder(config, words)
    made.build()
    return made, words


def content(reader: ContentReader) -> dict[str, tf.Tensor]:
    picture = draw_picture(np.random.default_rng(0), "red", "heart", "striped", "smooth")
    images = tf.constant([picture, picture, b"", b""])
    return reader(images, tf.constant(["red mug", "", "red mug", ""]), tf.constant(["", "", "", ""]))


def test_missing_modalities_take_no_part(encoder: tuple[ItemEncoder, TextReader]) -> None:
    model, words = encoder
    read = content(ContentReader(model.config, words))
    views = {name: value.numpy() for name, value in model(read).items()}
    np.testing.assert_allclose(np.linalg.norm(views["joint"], axis=1), [1, 1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(views["joint"][1], views["image"][1], atol=1e-5)  # picture alone
    np.testing.assert_allclose(views["joint"][2], views["text"][2], atol=1e-5)  # words alone
    assert not np.any(views["text"][1])
    assert not np.any(views["image"][2])
    noisy = {**read, "image": read["image"] + tf.constant([0.0, 0.0, 1.0, 1.0])[:, None, None, None]}
    np.testing.assert_allclose(model(noisy)["joint"].numpy(), views["joint"], atol=1e-6)


def test_encoder_survives_saving_and_export(encoder: tuple[ItemEncoder, TextReader], tmp_path: Path) -> None:
    model, words = encoder
    export_encoder(model, words, tmp_path / "1")
    reader = ContentReader(model.config, words)
    expected = model(content(reader))["joint"].numpy()
    loaded, own_words = ItemEncoder.load_from(tmp_path / "1/assets.extra/encoder")
    np.testing.assert_allclose(loaded(content(ContentReader(loaded.config, own_words)))["joint"], expected, atol=1e-6)

    served = tf.saved_model.load(str(tmp_path / "1"))
    picture = draw_picture(np.random.default_rng(0), "red", "heart", "striped", "smooth")
    answer = served.signatures["serving_default"](
        image=tf.constant([picture, b""]), title=tf.constant(["red mug", "red mug"]), text=tf.constant(["", ""])
    )
    np.testing.assert_allclose(answer["embedding"], expected[[0, 2]], atol=1e-5)
    example = tf.train.Example()
    example.features.feature["item_id"].bytes_list.value.append(b"i1")
    example.features.feature["title"].bytes_list.value.append(b"red mug")
    answer = served.signatures["embed_examples"](examples=tf.constant([example.SerializeToString()]))
    assert answer["item_id"].numpy().tolist() == [b"i1"]
    np.testing.assert_allclose(answer["embedding"], expected[[2]], atol=1e-5)
    assert (tmp_path / "1" / FACTS).is_file()


@pytest.fixture(scope="module")
def columns() -> ItemColumns:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(ITEMS, D))
    vectors = np.rint(127 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.int8)
    has_vector = np.arange(ITEMS) != 3
    id_index = np.where(np.arange(ITEMS) < 8, np.arange(1, ITEMS + 1), 0)
    return ItemColumns.assemble(vectors * has_vector[:, None], has_vector, [["a"], ["b"], []] * 4, id_index)


def ranker(columns: ItemColumns, context: tuple[int, ...] = (), **changes: object) -> CiUBM:
    keras.utils.set_random_seed(2)
    return CiUBM(replace(preset("tiny").ciubm, **changes), RankerShape(users=5, context=context), columns)


def inputs(rows: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    history = rng.integers(0, ITEMS + 1, (rows, L))
    history[0] = 0
    return {
        "item_row": rng.integers(1, ITEMS + 1, rows),
        "history_rows": history,
        "history_ages": rng.integers(0, 10**6, (rows, L)),
        "user_index": rng.integers(0, 5, rows),
    }


SWITCHES = [
    {},
    {"modal": False, "fusion": False},
    {"fusion": False},
    {"ids": False},
    {"cross_layers": 0},
    {"search": 3},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_ranker_learns_with_every_switch(columns: ItemColumns, switches: dict) -> None:
    model = ranker(columns, **switches)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    model.fit(tf.data.Dataset.from_tensors((x, y)).repeat(80), epochs=1, verbose=0)
    assert auc(y, model(x)["ctr"].numpy()) > 0.95
    assert np.all(model.items.vectors.numpy() == columns.vectors), "the item table is frozen"


@pytest.mark.parametrize("changes", [{}, {"search": 3}])
def test_padding_in_the_history_never_counts(columns: ItemColumns, changes: dict) -> None:
    model, x = ranker(columns, **changes), inputs()
    before = model(x)["ctr"].numpy()
    ages = np.where(x["history_rows"] == 0, 999, x["history_ages"])
    np.testing.assert_array_equal(model({**x, "history_ages": ages})["ctr"].numpy(), before)
    longer = {
        **x,
        "history_rows": np.pad(x["history_rows"], ((0, 0), (0, 3))),
        "history_ages": np.pad(ages, ((0, 0), (0, 3))),
    }
    np.testing.assert_allclose(model(longer)["ctr"].numpy(), before, atol=1e-6)


def test_a_search_leaves_to_attention_what_is_most_like_the_target(columns: ItemColumns) -> None:
    x = inputs()
    whole, all_of_it, nearest = ranker(columns), ranker(columns, search=L), ranker(columns, search=3)
    expected = whole(x)["ctr"].numpy()
    for model in (all_of_it, nearest):
        model(x)
        model.set_weights(whole.get_weights())
    np.testing.assert_allclose(all_of_it(x)["ctr"], expected, atol=1e-6)
    three = {**x, "history_rows": np.where(np.arange(L) < 3, x["history_rows"], 0)}
    np.testing.assert_allclose(nearest(three)["ctr"], whole(three)["ctr"], atol=1e-6)
    assert not np.allclose(nearest(x)["ctr"], expected)
    first = {name: value[:1] for name, value in x.items()}
    for model in (whole, nearest):  # one history for many targets, as it is served
        history = model.encode_history(first["history_rows"] * 0 + 5, first["history_ages"])
        shared = model.score(history, x["item_row"], first["user_index"])["ctr"]
        alone = {
            **x,
            "history_rows": np.full_like(x["history_rows"], 5),
            "history_ages": np.repeat(first["history_ages"], len(x["item_row"]), axis=0),
            "user_index": np.repeat(first["user_index"], len(x["item_row"])),
        }
        np.testing.assert_allclose(shared, model(alone)["ctr"], atol=1e-6)


def test_a_hidden_id_is_an_unknown_id(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs()
    history = model.encode_history(x["history_rows"], x["history_ages"])
    hidden = model({**x, "hide_id": np.ones(6, bool)})["ctr"].numpy()
    assert not np.allclose(hidden, model(x)["ctr"].numpy())
    model.items.id_index.assign(np.zeros_like(columns.id_index))
    unknown = model.score(history, x["item_row"], x["user_index"])["ctr"].numpy()
    np.testing.assert_allclose(hidden, unknown, atol=1e-6)
    rate = tf.reduce_mean(tf.cast(hide_some_ids({"item_row": tf.zeros(20_000)}, 0.3, [1, 2])["hide_id"], tf.float32))
    assert 0.28 < float(rate) < 0.32


def test_a_given_vector_stands_in_for_the_table(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs()
    rows = x["item_row"]
    own = model.items(rows)["vector"].numpy()
    given = {**x, "item_vector": own}
    np.testing.assert_allclose(model(given)["ctr"].numpy(), model(x)["ctr"].numpy(), atol=1e-6)
    np.testing.assert_allclose(model({**x, "item_vector": np.zeros_like(own)})["ctr"], model(x)["ctr"], atol=1e-6)


def example(user: str, item: str, history: list[str], ages: list[int], device: str) -> bytes:
    made = tf.train.Example()
    feature = made.features.feature
    feature["user_id"].bytes_list.value.append(user.encode())
    feature["item_id"].bytes_list.value.append(item.encode())
    feature["device"].bytes_list.value.append(device.encode())
    feature["history_item_ids"].bytes_list.value.extend(h.encode() for h in history)
    feature["history_ages"].int64_list.value.extend(ages)
    return made.SerializeToString()


@pytest.mark.parametrize("changes", [{}, {"search": 3}])
def test_one_score_offline_by_examples_and_by_rank(columns: ItemColumns, tmp_path: Path, changes: dict) -> None:
    model = ranker(columns, context=(3,), **changes)
    ids = np.array([f"i{n:02d}" for n in range(ITEMS)])
    tables = {
        "user_id": tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["u1", "u2"], [1, 2]), 0),
        "device": tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["tv", "web"], [1, 2]), 0),
    }
    owner = tf.Module()
    owner.tables = list(tables.values())
    names = {"user_id": "user_index", "device": "device_index"}
    serving = RankerServing(
        item_ids=ids,
        rows=ItemRows(ids, tmp_path / "scratch/item_ids.txt"),
        transform=lambda raw: {names[n]: tables[n].lookup(raw[n]) for n in names},
        transform_owner=owner,
        feature_spec={
            **{n: tf.io.FixedLenFeature([1], tf.string) for n in ("user_id", "item_id", "device", "segment")},
            "history_item_ids": tf.io.VarLenFeature(tf.string),
            "history_ages": tf.io.VarLenFeature(tf.int64),
        },
        context_features=("device",),
        encoder_version="abc",
    )
    model({**inputs(), "context": np.zeros((6, 1), int)})
    export_ranker(model, serving, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1"))

    candidates = ["i00", "i03", "i11", "unheard-of"]
    histories = {"none": [], "short": ["i01", "i02"], "long": [f"i{n % ITEMS:02d}" for n in range(11)]}
    for history in histories.values():
        ages = [100 * (len(history) - place) for place in range(len(history))]
        examples = tf.constant([example("u2", item, history, ages, "web") for item in candidates])
        by_examples = served.signatures["serve_examples"](examples=examples)["ctr"].numpy()
        ask = {
            "user_id": tf.constant(["u2"]),
            "device": tf.constant(["web"]),
            "history_item_ids": tf.constant(history, tf.string),
            "history_ages": tf.constant(ages, tf.int64),
            "candidate_item_ids": tf.constant(candidates),
        }
        by_rank = served.signatures["rank"](**ask)["ctr"].numpy()
        nothing = tf.zeros([4, D])
        with_vectors = {**ask, "candidate_vectors": nothing, "encoder_version": tf.constant(["abc"])}
        by_vectors = served.signatures["rank_with_vectors"](**with_vectors)["ctr"].numpy()
        kept = history[-L:]
        rows = np.zeros((4, L), int)
        seconds = np.zeros((4, L), int)
        rows[:, : len(kept)] = [int(h[1:]) + 1 for h in kept]
        seconds[:, : len(kept)] = ages[-L:]
        offline = model(
            {
                "item_row": np.array([1, 4, 12, 0]),
                "history_rows": rows,
                "history_ages": seconds,
                "user_index": np.full(4, 2),
                "context": np.full((4, 1), 2),
            }
        )["ctr"].numpy()
        np.testing.assert_allclose(by_examples, offline, atol=1e-5)
        np.testing.assert_allclose(by_rank, offline, atol=1e-5)
        np.testing.assert_allclose(by_vectors, offline, atol=1e-5)

    features = served.signatures["transform_features"](examples=examples)
    np.testing.assert_array_equal(features["item_row"], [1, 4, 12, 0])
    answer = served.signatures["rank"](**ask)
    assert answer["has_vector"].numpy().tolist() == [*columns.has_vector[[1, 4, 12]], False]
    assert answer["encoder_version"].numpy().tolist() == [b"abc"]
    given = np.tile(columns.vectors[1] / 127.0, (4, 1)).astype(np.float32)
    unseen = served.signatures["rank_with_vectors"](**{**with_vectors, "candidate_vectors": tf.constant(given)})
    assert abs(float(unseen["ctr"][3] - by_rank[3])) > 1e-6  # what has a vector is scored by it
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be of encoder abc, which this ranker"):
        served.signatures["rank_with_vectors"](**{**with_vectors, "encoder_version": tf.constant(["abd"])})


def test_mirrored_training_equals_one_device() -> None:
    """Two replicas on half batches each end where one device on the whole batch ends."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "mirrored_script.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_multi_worker_needs_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="needs the cluster in TF_CONFIG"):
        make_strategy(TrainingConfig(strategy="multi_worker"))


def test_vocabulary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no item of the catalogue has a title or a text"):
        make_vocabulary(["", ""], 10)


def test_the_whole_table_is_projected_or_the_rows_alone_to_the_same_end(columns: ItemColumns) -> None:
    model, x = ranker(columns), inputs(6)
    assert L < model.items.rows <= 6 * L  # for six histories the table, for one its rows
    one = {name: values[:1] for name, values in x.items()}
    np.testing.assert_allclose(model(one)["ctr"].numpy(), model(x)["ctr"].numpy()[:1], atol=1e-6)


def test_rows_that_a_batch_uses_are_held_small(columns: ItemColumns) -> None:
    x = inputs(64)
    y = (x["item_row"] % 2).astype("float32")
    norms = []
    for weight in (0.0, 1.0):
        model = ranker(columns, id_l2=weight)
        model.compile(optimizer=keras.optimizers.Adam(0.02))
        model.fit(tf.data.Dataset.from_tensors((x, y)).repeat(40), epochs=1, verbose=0)
        norms.append(float(np.linalg.norm(model.id_embedding.embeddings.numpy())))
    assert norms[1] < 0.5 * norms[0]
    assert "penalty" not in model(x)
