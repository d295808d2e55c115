"""Several attentions in one pass equal each on its own; masks and order hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_keras.layers import InterestAttention, Similarity, TargetAttention
from tests.mim_keras.backend import numbers
from tests.mim_keras.cases import ENCODED, LAYERS, MASK, SIMILARITY, TARGET, interest_attention

pytestmark = pytest.mark.any_backend
ATTENTIONS = ("TargetAttention", "DINAttention", "ModalAttention", "SemanticTargetAttention")
PER_TARGET = ("target", "similarity")


def test_one_pass_equals_each_attention_alone() -> None:
    layer = interest_attention()
    history = ENCODED._replace(recency=None)
    found = layer(TARGET, history, Similarity(SIMILARITY, MASK & TARGET.has_content[:, None]))
    content, rest = history.behaviours[..., :3], history.behaviours[..., 3:]
    target, modal, semantic = layer.attentions
    by_content = {"similarity": SIMILARITY, "history_mask": MASK & TARGET.has_content[:, None]}
    expected = [
        target(TARGET.features, rest, history_mask=MASK),
        modal(TARGET.content, content, side_features=rest, **by_content),
        semantic(TARGET.features, rest, similarity=SIMILARITY, history_mask=MASK),
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-4, atol=1e-5)


def test_recency_is_added_to_the_scores_of_each_head() -> None:
    layer = InterestAttention([TargetAttention(4), TargetAttention(4)])
    recency = np.zeros((3, 5, 2), "float32")
    recency[:, 1, 0], recency[:, 0, 1] = 100.0, 100.0  # so large that nothing else counts
    first, second = layer(TARGET, ENCODED._replace(recency=recency))
    rest = ENCODED.behaviours[..., 3:]
    for found, position, attention in ((first, 1, 0), (second, 0, 1)):
        expected = numbers(layer.attentions[attention].value(rest[:2, position]))
        np.testing.assert_allclose(numbers(found)[:2], expected, atol=1e-4)
        np.testing.assert_array_equal(numbers(found)[2], np.zeros(4))  # an empty history


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_empty_history_gives_zeros(name: str) -> None:
    assert not numbers(LAYERS[name].make()(**LAYERS[name].inputs))[2].any()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_one_history_is_shared_by_all_targets(name: str) -> None:
    case = LAYERS[name]
    layer, inputs = case.make(), case.inputs
    shared = {key: value if key in PER_TARGET else value[:1] for key, value in inputs.items()}
    repeated = {key: value if key in PER_TARGET else np.repeat(value[:1], 3, 0) for key, value in inputs.items()}
    np.testing.assert_allclose(numbers(layer(**shared)), numbers(layer(**repeated)), rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", [*ATTENTIONS, "SimTier"])
def test_neither_the_order_of_behaviours_nor_what_is_masked_counts(name: str, seed: int) -> None:
    case, rng = LAYERS[name], np.random.default_rng(seed)
    layer = case.make()
    mask_name = "similarity_mask" if name == "SimTier" else "history_mask"
    inputs = {key: rng.uniform(-1, 1, v.shape).astype("float32") for key, v in case.inputs.items() if key != mask_name}
    mask = rng.random((3, 5)) < rng.random()
    order = rng.permutation(5)
    changed = {key: value if key == "target" else value[:, order].copy() for key, value in inputs.items()}
    for key in set(changed) - {"target"}:
        changed[key][~mask[:, order]] *= -0.5
    before = numbers(layer(**inputs, **{mask_name: mask}))
    after = numbers(layer(**changed, **{mask_name: mask[:, order]}))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert not before[~mask.any(axis=1)].any()
