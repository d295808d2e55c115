"""Training steps of the three stages on an accelerator, by Keras' JAX backend; TensorFlow is not needed.

    KERAS_BACKEND=jax python -m benchmarks.accelerator [--preset base] [--scale 1,16]

Samples a second of each stage at a preset's own sizes, in float32 and in bfloat16, with its batch and with larger ones,
and the share of the chip's own rate of bfloat16 matrix products, measured beside it, that the step's arithmetic is.
Contents are random and on the device already: what is measured is the step, not what feeds it.  JAX must have its CPU
platform too, for which the operations are counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ITEMS, USERS, CATEGORIES = 100_000, 100_000, 64
PRODUCT = 8192  # side of the matrices by whose product the chip's rate is measured
POLICIES = ("float32", "mixed_bfloat16")


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--scale", default="1,16", help="Batches, as multiples of the preset's.")
    parser.add_argument("--seconds", type=float, default=2.0, help="Of each measurement.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accelerator.json")
    arguments = parser.parse_args(words)
    import keras

    if keras.backend.backend() != "jax":
        parser.error(f"Keras' backend must be jax; it is {keras.backend.backend()}. Set KERAS_BACKEND=jax.")
    peak = product_rate(arguments.seconds)
    rows = []
    for scale, policy in itertools.product(map(int, arguments.scale.split(",")), POLICIES):
        keras.config.set_dtype_policy(policy)
        for make in (ciubm_step, csft_step, pretrain_step):
            rows.append({"policy": policy, **measure(make, arguments.preset, scale, arguments.seconds, peak)})
            print(json.dumps(rows[-1]), flush=True)
            write(arguments.out, arguments.preset, peak, rows)


def write(file: Path, preset: str, peak: float, rows: list[dict[str, Any]]) -> None:
    """What was measured so far; a lease of a machine may end before all is."""
    import jax
    import keras

    ranker = [row["samples_per_second"] for row in rows if row["stage"] == "ciubm"]
    report = {
        "name": "accelerator",
        "value": max(ranker, default=None),
        "unit": "ciubm samples/s",
        "target": None,
        "met": None,
        "details": {"preset": preset, "bfloat16_product_tflops": round(peak / 1e12, 1), "rows": rows},
        "machine": {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "keras": keras.__version__},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


def product_rate(seconds: float) -> float:
    """Operations a second of a product of two square bfloat16 matrices."""
    import jax
    import jax.numpy as jnp

    side = PRODUCT if jax.default_backend() != "cpu" else 1024
    a, b = (jax.random.normal(jax.random.key(seed), (side, side), jnp.bfloat16) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / _seconds_of(lambda _: product(a, b), None, seconds)


def measure(
    make: Callable[[Any, int], tuple[Any, dict[str, Any]]], preset: str, scale: int, seconds: float, peak: float
) -> dict[str, Any]:
    """One stage at one batch: samples a second, operations a sample, share of `peak`."""
    import jax
    import keras

    from mim_keras.config import preset as named

    keras.utils.set_random_seed(1)
    model, batch = make(named(preset), scale)
    batch = jax.device_put(batch)
    x, y = batch if isinstance(batch, tuple) else (batch, None)
    model(x)  # builds it
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=(x, y))
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    step = jax.jit(model.train_step, donate_argnums=0)
    operations = operations_of(model.train_step, state, (x, y))
    size = len(next(iter(jax.tree.leaves(x))))
    each = _seconds_of(lambda carried: step(carried, (x, y))[1], state, seconds)
    return {
        "stage": type(model).__name__.lower(),
        "batch": size,
        "samples_per_second": round(size / each),
        "million_operations_a_sample": round(operations / size / 1e6, 2),
        "share_of_bfloat16_rate": round(operations / each / peak, 4),
    }


def operations_of(step: Callable[..., Any], *arguments: Any) -> float:
    """Of one call, as XLA counts them for a CPU before it optimises: an accelerator's count of its own code leaves out
    what it hands to libraries, and before that it gives none."""
    import jax

    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arguments)
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = jax.jit(step).lower(*shapes)
    counted: Any = lowered.cost_analysis()
    return counted["flops"]


def _seconds_of(step: Callable[[Any], Any], state: Any, seconds: float) -> float:
    """Of one call, over so many calls as fill `seconds`; each takes what the one before returned."""
    import jax

    for _ in range(3):
        made = step(state)
        state = made if state is not None else None
    jax.block_until_ready(made)
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        for _ in range(10):
            made = step(state)
            state = made if state is not None else None
        jax.block_until_ready(made)
        count += 10
    return (time.monotonic() - begin) / count


# -- the stages --------------------------------------------------------------------------------------------


def _encoder(stages: Any) -> Any:
    from mim_keras.layers.towers import ImageTower, TextTower
    from mim_keras.models import ItemEncoder

    config = stages.encoder
    text_tower = TextTower.from_settings(config.text, config.text.vocabulary_size)
    return ItemEncoder(
        config.embedding_dim, ImageTower.from_settings(config.image), text_tower, head_hidden_dim=config.head_hidden_dim
    )


def _content(stages: Any, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    size, tokens = stages.encoder.image.image_size, stages.encoder.text.max_tokens
    return {
        "image": rng.random((*shape, size, size, 3), np.float32),
        "image_mask": np.ones(shape, np.float32),
        "token_ids": rng.integers(5, stages.encoder.text.vocabulary_size, (*shape, tokens)).astype(np.int32),
        "token_mask": np.ones((*shape, tokens), bool),
        "text_mask": np.ones(shape, np.float32),
    }


def pretrain_step(stages: Any, scale: int) -> tuple[Any, Any]:
    """Stage 1 and a batch for it."""
    from mim_keras.models import ImageTextAlignment

    rng, rows = np.random.default_rng(0), stages.pretrain.training.batch_size * scale
    category = np.eye(CATEGORIES, dtype=np.float32)[rng.integers(0, CATEGORIES, rows)]
    return ImageTextAlignment(_encoder(stages), stages.pretrain, CATEGORIES), (_content(stages, (rows,), rng), category)


def csft_step(stages: Any, scale: int) -> tuple[Any, Any]:
    """Stage 2, its towers learning too, and a batch: a query, its item, and hard negatives."""
    from mim_keras.config import InfoNCETerm
    from mim_keras.models import Csft

    rng, rows = np.random.default_rng(0), stages.csft.training.batch_size * scale
    terms = (*stages.csft.all_terms, InfoNCETerm(negatives=("hard",), weight=0.5))
    config = dataclasses.replace(stages.csft, terms=terms)
    model = Csft(_encoder(stages), config, ITEMS)
    model.set_data(None, np.zeros(ITEMS + 1, np.float32))
    hard = config.num_hard_negatives
    pairs = {
        "query_rows": rng.integers(1, ITEMS + 1, (rows, 1)).astype(np.int32),
        "item_row": rng.integers(1, ITEMS + 1, rows).astype(np.int32),
        "hard_negative_rows": rng.integers(1, ITEMS + 1, (rows, hard)).astype(np.int32),
        "key": np.arange(rows, dtype=np.int32),
    }
    return model, {**pairs, **_content(stages, (rows, 2 + hard), rng)}


def ciubm_step(stages: Any, scale: int) -> tuple[Any, Any]:
    """Stage 3 over a table of items, and a batch of impressions with full histories."""
    from mim_keras import CiUBM, ItemTable, ItemTableData, VocabularySizes

    config, rng = stages.ciubm, np.random.default_rng(0)
    rows, length = config.training.batch_size * scale, config.history_length
    embeddings = rng.integers(-40, 41, (ITEMS, stages.encoder.embedding_dim)).astype(np.int8)
    categories = [[f"c{index % CATEGORIES}"] for index in range(ITEMS)]
    data = ItemTableData.from_items(embeddings, np.ones(ITEMS, bool), categories, np.arange(1, ITEMS + 1))
    inputs = {
        "item_row": rng.integers(1, ITEMS + 1, rows).astype(np.int32),
        "history_rows": rng.integers(1, ITEMS + 1, (rows, length)).astype(np.int32),
        "history_ages": rng.integers(0, 10**7, (rows, length)).astype(np.int32),
        "user_index": rng.integers(0, USERS, rows).astype(np.int32),
        "drop_id": rng.random(rows) < config.id_dropout,
    }
    clicked = (rng.random(rows) < 0.5).astype(np.float32)
    return CiUBM(config, VocabularySizes(USERS), ItemTable.from_data(data)), (inputs, clicked)


if __name__ == "__main__":
    main()
