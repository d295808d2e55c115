"""The encoder and the ranker as wholes: missing modalities, unknown ids, and one score however it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mim_keras.config import ConfigError, LexicalConfig, TrainingConfig, preset
from mim_keras.encoders.content import ContentReader, ContentTable, join_words
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.encoders.text_tower import make_vocabulary
from mim_keras.export import ItemRows, RankerServing, export_encoder, export_ranker
from mim_keras.export_extras import FACTS
from mim_keras.training.batches import hide_some_ids
from mim_keras.training.strategy import make_strategy
from tests.mim_keras.tiny_ranker import ITEMS, D, L, inputs, ranker, some_columns
from tests.tiny_encoder import tiny_encoder
from tfx_pipeline.importers.sample_pictures import draw_picture


@pytest.fixture(scope="module")
def encoder() -> tuple[ItemEncoder, TextReader]:
    return tiny_encoder()


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


def test_a_vector_of_many_views_is_served_as_it_is_computed(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    view = LexicalConfig(terms=50, min_count=1, width=3)
    config = replace(
        preset("tiny").encoder,
        vector=("joint", "text_features", "image_features"),
        lexical=view,
        lexical_views=(replace(view, of="line 1", tags=0), replace(view, of="title", letters=True, tags=0)),
        image=replace(preset("tiny").encoder.image, colours=True),
    )
    titles, texts = ["red mug", "blue lamp", "red\nlamp", ""], ["a mug\n#by:ann", "\n#by:bo", "a lamp", ""]
    joined = [words.decode() for words in join_words(tf.constant(titles), tf.constant(texts)).numpy()]
    assert joined == ["red mug\na mug\n#by:ann", "blue lamp\n\n#by:bo", "red lamp\na lamp", "\n"]
    words, tables = TextReader.fit(config, joined)
    model = ItemEncoder(config, words)
    model.build()
    model.fill(tables)
    picture = draw_picture(np.random.default_rng(0), "red", "heart", "striped", "smooth")
    pictures = [picture, b"", picture, b""]
    read = ContentReader(config, words)(*map(tf.constant, (pictures, titles, texts)))
    assert read["text_mask"].numpy().tolist() == [1, 1, 1, 0]
    expected = model(read)["vector"].numpy()
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), [1, 1, 1, 0], atol=1e-4)
    table = ContentTable(ContentReader(config, words), *(np.array(c, object) for c in (pictures, titles, texts)))
    for views in (table.encode(model), table.encode(model, table.features(model))):
        np.testing.assert_allclose(views["vector"], expected, atol=1e-5)
        np.testing.assert_allclose(table.joint(model, table.features(model)), views["joint"], atol=1e-5)
    export_encoder(model, words, tmp_path / "1")
    assert json.loads((tmp_path / "1" / FACTS).read_text())["dimension"] == expected.shape[1] == model.vector_dim
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    answer = served(image=tf.constant(pictures), title=tf.constant(titles), text=tf.constant(texts))
    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    loaded, own_words = ItemEncoder.load_from(tmp_path / "1/assets.extra/encoder")
    again = ContentReader(loaded.config, own_words)(*map(tf.constant, (pictures, titles, texts)))
    np.testing.assert_allclose(loaded(again)["vector"], expected, atol=1e-6)
    # of all that reads words, the tower of sentences comes first, and may stand alone
    d, width = config.embedding_dim, model.text_tower.width
    model.config = replace(config, vector=("joint", "sentence_features"))
    short = model(read)["vector"].numpy()
    assert short.shape[1] == model.vector_dim == d + width
    for part in (slice(d), slice(d, d + width)):
        own, given = (
            v[:, part] / np.maximum(np.linalg.norm(v[:, part], axis=1), 1e-9)[:, None] for v in (short, expected)
        )
        np.testing.assert_allclose(own, given, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(short[:3, d:], axis=1), np.sqrt(1 / 2), atol=1e-4)
    # what the lexical towers know is not learned, neither before saving nor after
    for made in (model, loaded):
        assert not any(weight is tower.table for tower in made.lexical_towers for weight in made.trainable_variables)
        assert len(made.trainable_variables) == len(model.trainable_variables)


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
def test_one_score_offline_by_examples_and_by_rank(tmp_path: Path, changes: dict) -> None:
    columns = some_columns()
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


def test_some_ids_are_hidden() -> None:
    draws = [hide_some_ids({"item_row": tf.zeros(20_000)}, 0.3, [1, seed])["hide_id"].numpy() for seed in (2, 2, 3)]
    assert 0.28 < draws[0].mean() < 0.32
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


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
