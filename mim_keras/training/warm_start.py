"""Weights of one training as the start of the next, which may know other users, items and categories."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from keras import ops

from mim_keras.config import ConfigError
from mim_keras.training.variable_paths import variable_paths

WEIGHTS, KEYS, INPUTS = "weights.npz", "keys.json", "inputs.json"


class HasVocabularyTables(Protocol):
    """A built model, some of whose variables have a row for each value of the data."""

    trainable_variables: list[Any]

    def vocabulary_tables(self) -> dict[str, list[Any]]:
        """Vocabulary → variables [rows, ...]."""
        ...

    def shared_row_tables(self) -> list[Any]:
        """Variables in whose rows several keys share."""
        ...


def save_weights(
    model: HasVocabularyTables, keys: Mapping[str, Sequence[str]], folder: Path, inputs: Sequence[str] = ()
) -> None:
    """Writes the trainable weights by path, and the key of each row of the vocabulary tables.

    The optimizer's state is not among them: the next training begins with moments of zero.

    Args:
        model: Built.
        keys: For each vocabulary the keys of its rows, in order; "" for a row that all unknown keys share.
        folder: Is made.
        inputs: Names of what the other weights read and predict, in the order in which they do.

    Raises:
        ValueError: a vocabulary has not one key a row.
    """
    _check_keys(model, keys)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables, dense = _table_paths(model), _dense_variables(model)
    values = {f"table/{path}": ops.convert_to_numpy(variable) for path, (_, variable) in tables.items()}
    values |= {f"weight/{path}": ops.convert_to_numpy(variable) for path, variable in dense.items()}
    np.savez(folder / WEIGHTS, allow_pickle=False, **values)
    vocabularies = {vocabulary for vocabulary, _ in tables.values()}
    (folder / INPUTS).write_text(json.dumps(list(inputs)))
    (folder / KEYS).write_text(json.dumps({name: list(keys[name]) for name in sorted(vocabularies)}))


def load_weights(
    model: HasVocabularyTables, keys: Mapping[str, Sequence[str]], folder: Path, inputs: Sequence[str] = ()
) -> dict[str, int]:
    """Sets the weights that `save_weights` wrote; returns how many rows of each vocabulary were known.

    The row of a new key starts as the shared row, or as initialised where there is none.  Rows of keys that are gone
    are dropped.

    Raises:
        ConfigError: the folder holds no weights, or those of a model of another shape or with other inputs.
        ValueError: a vocabulary has not one key a row.
    """
    _check_keys(model, keys)
    if model.shared_row_tables():
        raise ConfigError(
            "a warm start needs a row for each id, since other ids share the rows of small tables after each training; "
            "received ciubm.item_id_table or ciubm.user_id_table quotient_remainder or two_hash. Set both to full, or "
            "train without a warm start."
        )
    folder = Path(folder)
    if missing := [name for name in (WEIGHTS, KEYS, INPUTS) if not (folder / name).is_file()]:
        raise ConfigError(
            f"a warm start needs {', '.join(missing)} of an earlier training; {folder} holds none. Train once without."
        )
    before, now = json.loads((folder / INPUTS).read_text()), list(inputs)
    if before != now:
        place = next(n for n, pair in enumerate(itertools.zip_longest(before, now)) if len(set(pair)) > 1)
        found, wanted = (", ".join(names[place : place + 3]) or "none" for names in (now, before))
        raise ConfigError(
            "a warm start needs the features and labels of the last ranker in the same order; received "
            f"{found} where it has {wanted}. "
            "Undo the change in shop.yaml or the settings, or train once without warm_start."
        )
    previous_keys: dict[str, list[str]] = json.loads((folder / KEYS).read_text())
    tables, dense, num_matched = _table_paths(model), _dense_variables(model), {}
    with np.load(folder / WEIGHTS) as values:
        expected = {f"weight/{path}": tuple(variable.shape) for path, variable in dense.items()}
        saved = {name: values[name].shape for name in values.files if name.startswith("weight/")}
        saved_tables = {name.removeprefix("table/") for name in values.files if name.startswith("table/")}
        if expected != saved or set(tables) != saved_tables:
            changed = sorted({*saved_tables ^ set(tables), *(dict(saved.items() ^ expected.items()))})
            raise ConfigError(
                f"a warm start needs weights of the same model; received {folder}, which differs in "
                f"{', '.join(changed[:5])}. After a change of stages.ciubm, of features or of MIM itself train once "
                "without."
            )
        for path, variable in dense.items():
            variable.assign(values[f"weight/{path}"])
        for path, (vocabulary, variable) in tables.items():
            row_of = {key: row for row, key in enumerate(previous_keys[vocabulary])}
            rows = np.array([row_of.get(key, row_of.get("", -1)) for key in keys[vocabulary]], np.int64)
            value = np.array(ops.convert_to_numpy(variable))
            value[rows >= 0] = values[f"table/{path}"][rows[rows >= 0]]
            variable.assign(value)
            num_matched[vocabulary] = sum(key in row_of for key in keys[vocabulary])
    return num_matched


def _check_keys(model: HasVocabularyTables, keys: Mapping[str, Sequence[str]]) -> None:
    for vocabulary, variables in model.vocabulary_tables().items():
        rows = int(variables[0].shape[0])
        received = list(keys.get(vocabulary, ()))
        if len(received) != rows or len(set(received)) != rows:
            raise ValueError(
                f"keys[{vocabulary!r}] must hold one distinct key for each of the {rows} rows of its table; received "
                f"{len(received)} keys, {len(set(received))} of them distinct. Row 0 counts: it is shared by unknown "
                'keys, and its key is "".'
            )


def _table_paths(model: HasVocabularyTables) -> dict[str, tuple[str, Any]]:
    """Path → vocabulary and variable."""
    paths = {id(variable): path for path, variable in variable_paths(model).items()}
    tables = model.vocabulary_tables()
    return {paths[id(one)]: (name, one) for name, variables in tables.items() for one in variables}


def _dense_variables(model: HasVocabularyTables) -> dict[str, Any]:
    """Path → trainable variable that is no vocabulary table."""
    tables = {id(variable) for _, variable in _table_paths(model).values()}
    dense = {id(variable) for variable in model.trainable_variables} - tables
    return {path: variable for path, variable in variable_paths(model).items() if id(variable) in dense}
