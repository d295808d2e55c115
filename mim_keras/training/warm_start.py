"""Weights of one training as the start of the next, though the next knows other users, items and categories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from keras import ops

from mim_keras.config import ConfigError

WEIGHTS, KEYS = "weights.npz", "keys.json"


class Keyed(Protocol):
    """A built model, some of whose variables have rows that stand for things of the data."""

    trainable_variables: list[Any]

    def keyed_tables(self) -> dict[str, list[Any]]:
        """What the rows stand for → variables [rows, ...]."""
        ...


def save_weights(model: Keyed, keys: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Writes the trainable weights, and what each row of the keyed tables stands for.

    Args:
        model: Built.
        keys: For each keyed table what its rows stand for, in order; "" for a row that is shared by all others.
        folder: Is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = model.keyed_tables()
    values = {place: ops.convert_to_numpy(variable) for place, _, variable in _placed(tables)}
    values |= {f"weight/{place}": ops.convert_to_numpy(one) for place, one in enumerate(_others(model, tables))}
    np.savez(folder / WEIGHTS, allow_pickle=False, **values)
    (folder / KEYS).write_text(json.dumps({name: list(keys[name]) for name in tables}))


def load_weights(model: Keyed, keys: Mapping[str, Sequence[str]], folder: Path) -> dict[str, int]:
    """Sets the weights to those that `save_weights` wrote; returns how many rows of each table were known.

    A row that stands for something new begins as the shared row, or as it was initialised where there is none.

    Raises:
        ConfigError: the folder holds no weights, or those of a model of another shape.
    """
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(
            f"a warm start needs {WEIGHTS} of an earlier training; {folder} holds none. Train once without."
        )
    before: dict[str, list[str]] = json.loads((folder / KEYS).read_text())
    tables, known = model.keyed_tables(), {}
    with np.load(folder / WEIGHTS) as values:
        others = _others(model, tables)
        saved = [values[name] for name in values.files if name.startswith("weight/")]
        shapes = [tuple(one.shape) for one in others], [one.shape for one in saved]
        places = {place for place, _, _ in _placed(tables)}
        if shapes[0] != shapes[1] or places != {name for name in values.files if name.startswith("table/")}:
            raise ConfigError(
                f"a warm start needs weights of the same model; {folder} has other shapes or tables "
                f"({', '.join(before) or 'none'}). After a change of stages.ciubm, of features or of MIM itself train "
                "once without."
            )
        for variable, value in zip(others, saved, strict=True):
            variable.assign(value)
        for place, name, variable in _placed(tables):
            row_of = {key: row for row, key in enumerate(before[name])}
            rows = np.array([row_of.get(key, row_of.get("", -1)) for key in keys[name]], np.int64)
            value = np.array(ops.convert_to_numpy(variable))
            value[: len(rows)][rows >= 0] = values[place][rows[rows >= 0]]
            variable.assign(value)
            known[name] = sum(key in row_of for key in keys[name])
    return known


def _placed(tables: Mapping[str, list[Any]]) -> list[tuple[str, str, Any]]:
    """Of each table where it is kept, what its rows stand for, and itself."""
    return [(f"table/{name}/{n}", name, one) for name, several in tables.items() for n, one in enumerate(several)]


def _others(model: Keyed, tables: Mapping[str, list[Any]]) -> list[Any]:
    keyed = {id(variable) for _, _, variable in _placed(tables)}
    return [variable for variable in model.trainable_variables if id(variable) not in keyed]
