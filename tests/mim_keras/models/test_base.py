"""What is frozen, the precision, and inputs that do not fit, in the models of all stages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mim_keras.layers import ItemTable
from mim_keras.layers.towers import EmbeddingTower
from mim_keras.models import CiUBM, ContentBranch, Csft, ItemEncoder, VocabularySizes
from tests.mim_keras import tiny
from tests.mim_keras.backend import half_precision, numbers

pytestmark = pytest.mark.any_backend
LABELS = np.arange(6) % 2


def frozen_csft() -> Csft:
    return tiny.csft(frozen=True)


def frozen_alignment() -> keras.Model:
    model = tiny.alignment()
    model.encoder.freeze_towers()
    return model


def frozen_ranker() -> CiUBM:
    model = tiny.ranker()
    model.user_embedding.trainable = False
    return model


def encoder_with_adapters() -> ItemEncoder:
    encoder = ItemEncoder(
        8, embedding_towers=[EmbeddingTower(4, column="clip", modality="image")], residual_adapters=True
    )
    encoder.freeze_all_but_adapters()
    return encoder


def trainable_paths(model: keras.Model) -> list[str]:
    """Without the numbers that Keras gives to the second layer of a kind."""
    paths = (variable.path.split("/", 1)[-1] for variable in model.trainable_variables)
    return sorted(re.sub(r"_\d+/", "/", path) for path in paths)


@pytest.mark.parametrize("make", [frozen_csft, frozen_alignment, frozen_ranker, encoder_with_adapters])
def test_what_is_frozen_stays_frozen(make: Any, tmp_path: Path) -> None:
    model = make()
    if not isinstance(model, ItemEncoder):
        model.compile(optimizer="adam")
        model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    expected = trainable_paths(model)
    for other in (keras.saving.load_model(tmp_path / "model.keras"), type(model).from_config(model.get_config())):
        assert trainable_paths(other) == expected
    if not isinstance(model, ItemEncoder):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert len(loaded.optimizer.variables) == len(model.optimizer.variables)


def test_a_content_branch_releases_what_it_froze() -> None:
    model = frozen_ranker()
    before = len(model.trainable_variables)
    branch = ContentBranch(model)
    assert len(model.trainable_variables) < before
    branch.release()
    assert len(model.trainable_variables) == before


def test_the_precision_is_saved(tmp_path: Path) -> None:
    with half_precision():
        ranker, (encoder, _) = tiny.ranker(), tiny.tiny_encoder()
        expected = numbers(ranker(tiny.ranker_inputs())["ctr"])
        ranker.save(tmp_path / "ranker.keras")
        encoder.save(tmp_path / "encoder.keras")
    ranker = keras.saving.load_model(tmp_path / "ranker.keras")
    np.testing.assert_allclose(numbers(ranker(tiny.ranker_inputs())["ctr"]), expected, atol=1e-6)
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    joint = encoder(tiny.encoder_inputs())["joint"]
    assert keras.backend.standardize_dtype(joint.dtype) == "bfloat16"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_ranker_has_a_precision_of_its_own(policy: str) -> None:
    table = ItemTable.from_data(tiny.item_data())
    ranker = CiUBM(tiny.ranker_config(), VocabularySizes(users=5), table, dtype=policy)
    assert ranker.head.dtype_policy.name == policy
    assert np.isfinite(numbers(ranker(tiny.ranker_inputs())["ctr"])).all()
    assert keras.config.dtype_policy().name == "float32"


def test_an_ensemble_replaces_embeddings_where_it_is_told_to() -> None:
    model, x = tiny.any_ranker(tiny.ranker_config(ensemble_split_dim=8)), tiny.ranker_inputs()
    given = {**x, "item_embedding": np.ones((6, tiny.D), "float32"), "use_item_embedding": np.arange(6) < 3}
    plain, replaced = numbers(model(x)["ctr"]), numbers(model(given)["ctr"])
    np.testing.assert_allclose(replaced[3:], plain[3:], atol=1e-6)
    assert (np.abs(replaced[:3] - plain[:3]) > 1e-4).all()


@pytest.mark.parametrize("name", ["item_row", "history_rows", "user_index"])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_an_index_out_of_range_is_unknown(name: str, dtype: str) -> None:
    model, x = tiny.ranker(), tiny.ranker_inputs()
    unknown = numbers(model({**x, name: np.zeros_like(x[name])})["ctr"])
    for value in (-1, 99):
        found = numbers(model({**x, name: np.full_like(x[name], value).astype(dtype)})["ctr"])
        np.testing.assert_allclose(found, unknown, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_row": None}, r"reads a mapping with item_row, .* received \['history_ages'"),
        ({"item_row": np.ones((6, 1), int)}, r"`item_row` must have shape \(batch\); received shape \(6, 1\)"),
        ({"history_rows": np.ones(6, int)}, r"`history_rows` must have shape \(batch, length\)"),
        ({"history_ages": np.ones((6, 3), int)}, "history_ages 3"),
    ],
)
def test_inputs_of_a_ranker_that_do_not_fit(changes: dict, message: str) -> None:
    inputs = {name: value for name, value in {**tiny.ranker_inputs(), **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        tiny.ranker()(inputs)
    with pytest.raises(ValueError, match="received list"):
        tiny.ranker().check_inputs([1])


def test_inputs_of_stage_2_that_do_not_fit() -> None:
    model = tiny.csft()
    with pytest.raises(ValueError, match="query_length=1 columns; received 3"):
        model(tiny.pairs(query_length=3))
    with pytest.raises(ValueError, match="Csft needs key; received"):
        model({name: value for name, value in tiny.pairs().items() if name != "key"})
    model.set_data(None)
    with pytest.raises(ValueError, match="or call set_data with tower features"):
        model(tiny.pairs())
    with pytest.raises(ValueError, match="at most the width of a view, 16; received 99"):
        tiny.csft(terms=[{"prefix_dim": 99}])
    with pytest.raises(ValueError, match="takes no metrics"):
        model.compile(metrics=["AUC"])


def test_labels_of_stage_1_may_be_integers_or_a_mapping() -> None:
    x = tiny.encoder_inputs()
    y = np.eye(4, dtype=int)[np.arange(tiny.CONTENTS) % 4]
    losses = []
    for labels in (y, y.astype("float32"), y.astype(bool), {"category": y}):
        model = tiny.alignment()
        model.compile(optimizer="sgd", metrics=["categorical_accuracy"])
        found = model.evaluate(x, labels, verbose=0, return_dict=True)
        losses.append(found["loss"])
        assert found["categorical_accuracy"] <= 1
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"multi-hot categories \[batch, 4\]; received"):
        model.compute_loss(x, y[:, :3], model(x))


def test_arguments_may_be_positional() -> None:
    model = tiny.ranker()
    model.compile("adam", "mse", None, ["AUC"])
    assert len(model.fit(tiny.ranker_inputs(), LABELS, 4, 2, 0).history["loss"]) == 2
    assert len(model.evaluate(tiny.ranker_inputs(), LABELS, 4, 0)) > 1
