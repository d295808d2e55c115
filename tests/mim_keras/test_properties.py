"""What holds for whatever numbers: order that must not count, scale that must not count, and what is searched for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_keras.contrast.info_nce import alignment_loss, info_nce
from mim_keras.encoders.normalise import normalise, normalise_blocks
from mim_keras.interest.long_history import CosineSearch, looked_up
from mim_keras.interest.masked import masked_softmax
from tests.mim_keras.backend import numbers
from tests.mim_keras.test_interest import LAYERS

pytestmark = pytest.mark.any_backend

seeds = st.integers(0, 2**31)
often = settings(max_examples=25, deadline=None)
B, L, D = 3, 7, 6


@pytest.fixture(scope="module")
def layers() -> dict[str, keras.layers.Layer]:
    """Each kind of interest once, with its weights."""
    return {name: make() for name, (make, _) in LAYERS.items()}


@given(seeds)
@often
def test_the_order_of_clicks_never_counts_nor_what_stands_at_padding(layers: dict, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = {
        "target": rng.normal(size=(B, D)),
        "history": rng.normal(size=(B, L, D)),
        "further": rng.normal(size=(B, L, 2 * D)),
        "similarity": rng.uniform(-1, 1, (B, L)),
    }
    inputs = {name: values.astype("float32") for name, values in inputs.items()}
    present = rng.random((B, L)) < rng.random()
    order = rng.permutation(L)
    turned = {name: values if name == "target" else values[:, order].copy() for name, values in inputs.items()}
    for name in ("history", "further", "similarity"):
        turned[name][~present[:, order]] *= -0.5
    for name, layer in layers.items():
        names = [one for one in LAYERS[name][1] if one != "present"]
        before = layer(**{one: inputs[one] for one in names}, present=present)
        after = layer(**{one: turned[one] for one in names}, present=present[:, order])
        np.testing.assert_allclose(numbers(after), numbers(before), rtol=1e-4, atol=1e-5, err_msg=name)
        assert not numbers(before)[~present.any(axis=1)].any(), name


@given(seeds, st.floats(-50, 50))
@often
def test_a_softmax_is_of_what_is_there_and_of_differences_alone(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits, mask = rng.normal(scale=3, size=(B, L)).astype("float32"), rng.random((B, L)) < rng.random()
    found = numbers(masked_softmax(logits, mask))
    np.testing.assert_allclose(found.sum(axis=1), mask.any(axis=1), atol=1e-5)
    assert not found[~mask].any()
    np.testing.assert_allclose(numbers(masked_softmax(logits + np.float32(shift), mask)), found, atol=1e-4)


@given(seeds, st.floats(1e-3, 1e3))
@often
def test_the_length_of_a_vector_never_counts(seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(B, D)).astype("float32")
    found = numbers(normalise(x))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(numbers(normalise(x * np.float32(scale))), found, atol=1e-4)
    each = np.repeat(np.float32([scale, 1 / scale]), [2, D - 2])  # another length for each block
    blocks = numbers(normalise_blocks(x, (2, D - 2)))
    np.testing.assert_allclose(numbers(normalise_blocks(x * each, (2, D - 2))), blocks, atol=1e-4)


@given(seeds, st.floats(-20, 20))
@often
def test_the_order_of_negatives_never_counts_nor_what_is_added_to_all(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(B, L)).astype("float32")
    positive, blocked = rng.integers(0, L, B).astype("int32"), rng.random((B, L)) < 0.3
    found = float(info_nce(logits, positive, blocked))
    order = rng.permutation(L)
    place = np.argsort(order)[positive].astype("int32")
    assert float(info_nce(logits[:, order], place, blocked[:, order])) == pytest.approx(found, abs=1e-4)
    assert float(info_nce(logits + np.float32(shift), positive, blocked)) == pytest.approx(found, abs=1e-3)
    assert found >= -1e-6
    assert float(info_nce(logits, positive)) >= found - 1e-5  # more candidates never make it easier


@given(seeds)
@often
def test_an_alignment_is_the_same_both_ways_and_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, text = (numbers(normalise(rng.normal(size=(L, D)).astype("float32"))) for _ in range(2))
    both = (rng.random(L) < 0.7).astype("float32")
    found = float(alignment_loss(image, text, both, 10.0))
    order = rng.permutation(L)
    assert float(alignment_loss(text, image, both, 10.0)) == pytest.approx(found, abs=1e-4)
    assert float(alignment_loss(image[order], text[order], both[order], 10.0)) == pytest.approx(found, abs=1e-4)


@given(seeds, st.integers(1, 9), st.floats(0.1, 10))
@often
def test_a_search_finds_the_nearest_that_are_there(seed: int, k: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.permuted(np.linspace(-0.1, 0.1, B * L).astype("float32")).reshape(B, L)
    present = rng.random((B, L)) < rng.random()
    places = numbers(CosineSearch(k)(similarity, present))
    assert places.shape == (B, min(k, L))
    assert (np.diff(places, axis=1) > 0).all()
    for row, own in enumerate(places):
        there = np.flatnonzero(present[row])
        nearest = there[np.argsort(-similarity[row, there])][:k]
        assert set(nearest.tolist()) <= set(own.tolist())
        assert present[row, own].sum() == len(nearest)
    np.testing.assert_array_equal(numbers(CosineSearch(k)(similarity * np.float32(scale), present)), places)
    values = rng.normal(size=(B, L, D)).astype("float32")
    np.testing.assert_array_equal(
        numbers(looked_up(values, places)), np.take_along_axis(values, places[..., None], axis=1)
    )
