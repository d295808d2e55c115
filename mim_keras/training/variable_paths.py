"""Names of variables that depend on a model's structure alone, not on the order in which layers were made."""

from __future__ import annotations

from typing import Any

import keras


def variable_paths(model: keras.Model) -> dict[str, Any]:
    """All variables of a built model by attribute path, such as `head/crosses/0/kernel`.

    Keras' own `Variable.path` holds the numbers that Keras gives to layers without a name, which count all layers that
    the process made before.
    """
    paths: dict[str, Any] = {}
    known: set[int] = set()
    seen: set[int] = set()

    def add(variable: Any, path: str) -> None:
        if id(variable) in known:
            return
        known.add(id(variable))
        unique, copy = path, 1
        while unique in paths:
            copy += 1
            unique = f"{path}#{copy}"
        paths[unique] = variable

    def walk(owner: Any, path: str) -> None:
        if id(owner) in seen:
            return
        seen.add(id(owner))
        for name, value in sorted(vars(owner).items()):
            if not name.startswith("_"):
                visit(value, f"{path}/{name}")
        if isinstance(owner, keras.Model):
            visit(owner.layers, f"{path}/layers")
        for variable in owner.variables:  # what no public attribute holds
            add(variable, f"{path}/{variable.name}")

    def visit(value: Any, path: str) -> None:
        if isinstance(value, keras.Variable):
            add(value, path)
        elif isinstance(value, keras.random.SeedGenerator):
            add(value.state, path)
        elif isinstance(value, keras.Layer):
            walk(value, path)
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                visit(value[key], f"{path}/{key}")
        elif isinstance(value, list | tuple):
            for index, one in enumerate(value):
                visit(one, f"{path}/{index}")

    walk(model, "")
    return {path.lstrip("/"): variable for path, variable in paths.items()}


def data_variables(model: keras.Model) -> list[Any]:
    """The weights of layers that hold data, such as an `ItemTable`."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "skipped_by_checkpoints", False)]
    return [variable for layer in layers for variable in layer.variables]


def mutable_variables(model: keras.Model) -> dict[str, Any]:
    """All variables that training changes, by path, those of the optimizer too; without layers that hold data."""
    frozen = {id(variable) for variable in data_variables(model)}
    by_path = {path: one for path, one in variable_paths(model).items() if id(one) not in frozen}
    if model.optimizer is None:
        return by_path
    # Keras names an optimizer's variable after the weight that it belongs to.
    weights = sorted(((one.path.replace("/", "_"), path) for path, one in by_path.items()), key=lambda w: -len(w[0]))
    for variable in model.optimizer.variables:
        name = next((n.replace(k, p, 1) for k, p in weights if (n := variable.name).startswith(k)), variable.name)
        path, copy = f"optimizer/{name}", 1
        while path in by_path:
            copy += 1
            path = f"optimizer/{name}#{copy}"
        by_path[path] = variable
    return by_path
