"""Each interest layer against NumPy, and the rule that padding never counts."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from mim_keras.interest.activation_unit import ActivationUnit
from mim_keras.interest.history_attention import attend
from mim_keras.interest.long_history import CosineSearch, looked_up
from mim_keras.interest.masked import masked_softmax
from mim_keras.interest.modal_attention import ModalAttention
from mim_keras.interest.sa_ta import SemanticAwareTargetAttention
from mim_keras.interest.sim_tier import SimTier
from mim_keras.interest.target_attention import TargetAttention
from tests.mim_keras.layer_harness import check_layer

pytestmark = pytest.mark.any_backend

B, L, D = 3, 5, 6


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    present = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    return {
        "target": rng.normal(size=(B, D)).astype("float32"),
        "history": rng.normal(size=(B, L, D)).astype("float32"),
        "further": rng.normal(size=(B, L, 2 * D)).astype("float32"),
        "similarity": rng.uniform(-1, 1, (B, L)).astype("float32"),
        "present": present,
    }


def pick(inputs: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: inputs[name] for name in names}


def softmax_where(logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * present
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


LAYERS = {
    "target": (lambda: TargetAttention(4), ("target", "history", "present")),
    "modal": (lambda: ModalAttention(4), ("target", "history", "further", "similarity", "present")),
    "activation_unit": (lambda: ActivationUnit(4, 5), ("target", "history", "present")),
    "sa_ta": (lambda: SemanticAwareTargetAttention(2, 4), ("target", "history", "similarity", "present")),
    "sim_tier": (lambda: SimTier(), ("similarity", "present")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_harness(name: str, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    make, names = LAYERS[name]
    floats = tuple(n for n in names if n != "present")
    output = check_layer(make, pick(inputs, *names), floats, tmp_path)
    assert np.all(output[2] == 0), "an empty history says nothing"


@pytest.mark.parametrize("name", LAYERS)
def test_padding_never_counts(name: str, inputs: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    make, names = LAYERS[name]
    layer = make()
    before = keras.ops.convert_to_numpy(layer(**pick(inputs, *names)))
    changed = {key: value.copy() for key, value in inputs.items()}
    for key in ("history", "further", "similarity"):
        noise = rng.uniform(-1, 1, changed[key].shape).astype("float32")
        absent = ~inputs["present"]
        changed[key][absent] = noise[absent]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(**pick(changed, *names))), before)


@pytest.mark.parametrize("name", LAYERS)
def test_order_of_the_history_does_not_matter(name: str, inputs: dict[str, np.ndarray]) -> None:
    make, names = LAYERS[name]
    layer = make()
    before = keras.ops.convert_to_numpy(layer(**pick(inputs, *names)))
    order = [4, 2, 0, 3, 1]
    turned = {key: value[:, order] if key != "target" else value for key, value in inputs.items()}
    after = keras.ops.convert_to_numpy(layer(**pick(turned, *names)))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["target", "sa_ta", "modal"])
def test_one_history_is_shared_by_all_targets(name: str, inputs: dict[str, np.ndarray]) -> None:
    make, names = LAYERS[name]
    layer = make()
    per_target = ("target", "similarity")
    shared = {n: inputs[n] if n in per_target else inputs[n][:1] for n in names}
    repeated = {n: inputs[n] if n in per_target else np.repeat(inputs[n][:1], B, 0) for n in names}
    np.testing.assert_allclose(layer(**shared), layer(**repeated), rtol=1e-5, atol=1e-6)


def test_target_attention_by_numpy(inputs: dict[str, np.ndarray]) -> None:
    layer = TargetAttention(4)
    output = layer(**pick(inputs, "target", "history", "present"))
    query, key, value = (w.numpy() for w in layer.trainable_variables)
    logits = np.einsum("bd,bld->bl", inputs["target"] @ query, inputs["history"] @ key) / 2.0
    weights = softmax_where(logits, inputs["present"])
    np.testing.assert_allclose(
        output, np.einsum("bl,bld->bd", weights, inputs["history"] @ value), rtol=1e-4, atol=1e-5
    )


def test_modal_attention_by_numpy(inputs: dict[str, np.ndarray]) -> None:
    layer = ModalAttention(4, temperature=0.5)
    output = layer(**pick(inputs, "target", "history", "further", "similarity", "present"))
    query, key, value = (layer.query.kernel.numpy(), layer.key.kernel.numpy(), layer.value.kernel.numpy())
    logits = inputs["similarity"] / 0.5
    logits = logits + np.einsum("bd,bld->bl", inputs["target"] @ query, inputs["history"] @ key) / 2.0
    weights = softmax_where(logits, inputs["present"])
    clicks = np.concatenate([inputs["history"], inputs["further"]], axis=-1)
    np.testing.assert_allclose(output, np.einsum("bl,bld->bd", weights, clicks @ value), rtol=1e-4, atol=1e-5)


def test_activation_unit_is_a_network_over_all_four(inputs: dict[str, np.ndarray]) -> None:
    layer = ActivationUnit(4, 5)
    named = pick(inputs, "target", "history", "present")
    layer(**named)
    layer.slope.assign([0.0, 0.1, 0.2, 0.3, -0.4])
    layer.bias.assign(0.7)
    q, k = inputs["target"] @ layer.query.kernel.numpy(), inputs["history"] @ layer.key.kernel.numpy()
    of_target, of_click, of_both = (w.numpy() for w in (layer.of_target.kernel, layer.of_click, layer.of_both))
    # q A + k C + (q ∘ k) D as the network [q; k; q − k; q ∘ k] W with the difference's weights nought
    q = np.repeat(q[:, None], L, axis=1)
    x = np.concatenate([q, k, q - k, q * k], -1) @ np.concatenate([of_target, of_click, 0 * of_click, of_both])
    x = np.where(x > 0, x, layer.slope.numpy() * x) @ layer.weight.numpy() + 0.7
    np.testing.assert_allclose(layer(**named), np.einsum("bl,bld->bd", x * inputs["present"], k), rtol=1e-4, atol=1e-5)


def test_several_kinds_share_the_passes_over_the_clicks(inputs: dict[str, np.ndarray]) -> None:
    target, modal, fused = TargetAttention(4), ModalAttention(4), SemanticAwareTargetAttention(2, 4)
    expected = [
        target(**pick(inputs, "target", "history", "present")),
        modal(**{**pick(inputs, "target", "history", "similarity", "present"), "further": inputs["history"]}),
        fused(**pick(inputs, "target", "history", "similarity", "present")),
    ]
    clicks = np.concatenate([inputs["history"]] * 2, axis=-1)
    similarity, present = inputs["similarity"], inputs["present"]
    asked = [target.ask(inputs["target"]), modal.ask(inputs["target"], further=D), fused.ask(inputs["target"])]
    kinds = [
        (layer, queries, similarity, present) for layer, queries in zip((target, modal, fused), asked, strict=True)
    ]
    for one, other in zip(attend(kinds, clicks), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_sa_ta_by_numpy(inputs: dict[str, np.ndarray]) -> None:
    layer = SemanticAwareTargetAttention(2, 4, temperature=0.1)
    output = layer(**pick(inputs, "target", "history", "similarity", "present"))
    q, k, v = (
        inputs[n] @ w.kernel.numpy()
        for n, w in zip(("target", "history", "history"), (layer.query, layer.key, layer.value), strict=True)
    )
    near = inputs["similarity"] * 10
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        dot = np.einsum("bd,bld->bl", q[:, part], k[..., part]) / np.sqrt(2)
        heads.append(np.einsum("bl,bld->bd", softmax_where(dot + near + dot * near, inputs["present"]), v[..., part]))
    np.testing.assert_allclose(output, np.concatenate(heads, -1), rtol=1e-4, atol=1e-4)


def test_sim_tier_by_hand() -> None:
    similarity = np.array([[-1.0, -0.95, 0.05, 0.99, 1.0, 0.5]], "float32")
    present = np.array([[1, 1, 1, 1, 1, 0]], bool)
    output = keras.ops.convert_to_numpy(SimTier(20)(similarity, present))[0]
    expected = np.zeros(20)
    expected[0] = np.log(3)  # -1.0 and -0.95
    expected[10] = np.log(2)  # 0.05
    expected[19] = np.log(3)  # 0.99, and 1.0 in the last bin
    np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads; received dim=5, heads=2"):
        SemanticAwareTargetAttention(2, 5)


def test_masked_softmax_of_nothing_is_zero() -> None:
    weights = masked_softmax(np.ones((1, 3), "float32"), np.zeros((1, 3), bool))
    np.testing.assert_array_equal(weights, np.zeros((1, 3)))


def test_search_finds_the_most_alike_in_their_order(inputs: dict[str, np.ndarray]) -> None:
    layer = CosineSearch(2)
    similarity, present = inputs["similarity"], inputs["present"]
    places = keras.ops.convert_to_numpy(layer(similarity, present))
    assert places.tolist()[0] == sorted(np.argsort(-similarity[0])[:2])
    assert places.tolist()[1] == [0, 1], "those present before any other, however alike"
    assert not present[2][places[2]].any()
    assert CosineSearch.from_config(layer.get_config())(similarity, present).shape == (B, 2)
    assert CosineSearch(9)(similarity, present).shape == (B, L)
    values, shared = inputs["history"], inputs["history"][:1]
    np.testing.assert_array_equal(looked_up(values, places), values[np.arange(B)[:, None], places])
    np.testing.assert_array_equal(looked_up(shared, places), values[0][places])
    np.testing.assert_array_equal(looked_up(present, places), np.take_along_axis(present, places, 1))
    with pytest.raises(ValueError, match="k must be at least 1; received 0"):
        CosineSearch(0)


def test_recency_is_added_to_the_products_of_each_head(inputs: dict[str, np.ndarray]) -> None:
    layer = TargetAttention(4)
    layer.build((B, D), (B, L, D), (B, L))
    query, recency = layer.ask(inputs["target"]), np.zeros((B, L, 1), "float32")
    recency[:, 1] = 100.0  # so near that nothing else counts
    kinds = [(layer, query, None, inputs["present"])]
    found = attend(kinds, keras.ops.convert_to_tensor(inputs["history"]), keras.ops.convert_to_tensor(recency))[0]
    expected = layer.value(inputs["history"][:2, 1])
    np.testing.assert_allclose(found[:2], expected, atol=1e-4)
    np.testing.assert_array_equal(found[2], np.zeros(4))  # a history of padding alone
