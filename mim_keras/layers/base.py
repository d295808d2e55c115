"""Base classes of layers, and shape checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from mim_keras.config import from_mapping, to_mapping

PADDING_ROW = 0  # of no item, and of an item that a table lacks


def check_rank(layer: keras.layers.Layer, name: str, shape: Any, axes: str) -> None:
    """Checks that an input has the axes that its layer documents.

    Args:
        layer: The layer, for the message.
        name: Of the input.
        shape: Of the input.
        axes: Names of the axes, separated by spaces.

    Raises:
        ValueError: the number of axes differs.
    """
    expected = axes.split()
    if len(shape) != len(expected):
        raise ValueError(
            f"{type(layer).__name__}: `{name}` must have shape ({', '.join(expected)}); received shape {tuple(shape)}. "
            f"Give it {len(expected)} ax{'i' if len(expected) == 1 else 'e'}s."
        )


def check_same_length(layer: keras.layers.Layer, **shapes: Any) -> None:
    """Checks that axis 1 of several inputs has one size, where it is known.

    Raises:
        ValueError: two sizes differ.
    """
    sizes = {name: shape[1] for name, shape in shapes.items() if shape is not None and shape[1] is not None}
    if len(set(sizes.values())) > 1:
        received = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"{type(layer).__name__}: axis 1 of {', '.join(f'`{name}`' for name in sizes)} must have one size; "
            f"received {received}. Pad or cut them to the length of the history."
        )


class Configurable:
    """Mixin: `get_config` and `from_config` from constructor arguments that are attributes of the same name.

    Attributes:
        config_names: Arguments that are plain values.
        config_parts: Arguments that are Keras objects, or lists of them; None is allowed.
        config_settings: Arguments that are dataclasses of settings, and their types.
    """

    config_names: tuple[str, ...] = ()
    config_parts: tuple[str, ...] = ()
    config_settings: dict[str, type] = {}

    def own_config(self) -> dict[str, Any]:
        """The arguments, as plain values."""
        config: dict[str, Any] = {name: _plain(getattr(self, name)) for name in self.config_names}
        config |= {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.config_parts}
        return config | {name: _plain(to_mapping(getattr(self, name))) for name in self.config_settings}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.own_config()}  # type: ignore[misc]  # of the layer beside which this is mixed in

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        arguments = dict(config)
        for name in cls.config_parts:
            arguments[name] = _deserialize(config[name])
        for name, kind in cls.config_settings.items():
            arguments[name] = from_mapping(kind, config[name])
        return cls(**arguments)


class ConfigurableModel(Configurable):
    """`Configurable` for models: which of the layers inside are trainable is part of the configuration."""

    def own_config(self) -> dict[str, Any]:
        layers = self._flatten_layers()  # type: ignore[attr-defined]  # of keras.Model, beside which this is mixed in
        return {**super().own_config(), "trainable_layers": [bool(layer.trainable) for layer in layers]}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        model = super().from_config({name: value for name, value in config.items() if name != "trainable_layers"})
        for layer, trainable in zip(model._flatten_layers(), config["trainable_layers"], strict=True):
            if layer.trainable != trainable:
                layer.trainable = trainable
        return model


def _deserialize(value: Any) -> Any:
    if isinstance(value, list):
        return [_deserialize(one) for one in value]
    return keras.saving.deserialize_keras_object(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def default_dtype(policy: Any) -> Iterator[None]:
    """Layers that are made inside have this dtype policy by default; None: the global one."""
    outer = keras.config.dtype_policy()
    keras.config.set_dtype_policy(outer if policy is None else keras.dtype_policies.get(policy))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outer)


ABSENT = ()  # shape of an output that a configuration does not have


class TracedSpec:
    """Mixin of layers with outputs of several dtypes: a symbolic call traces `call`, which knows them."""

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, *args, **kwargs)


class MaskConsumingLayer(Configurable, keras.layers.Layer):
    """A layer that reads the mask of a history and returns an output without one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """The output has no time axis, hence no mask."""
