"""Settings as frozen dataclasses, built from plain values and checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import date
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting breaks its rule.  The message names the rule, the value received and the fix."""


def require(condition: bool, rule: str, received: object, fix: str) -> None:
    """Raises `ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{rule}; received {received!r}. {fix}")


def require_choices(config: Any, prefix: str = "") -> None:
    """Checks the `Literal` fields of a dataclass; `prefix` is the dotted path in front of a field's name.

    Raises:
        ConfigError: a value is not among its field's choices.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            options, value = typing.get_args(hint), getattr(config, name)
            named = ", ".join(str(option) for option in options if option != "")
            require(value in options, f"{prefix}{name} is one of {named}", value, "Choose one.")


def from_mapping(cls: type[T], values: Mapping[str, Any] | None, where: str = "", defaults: T | None = None) -> T:
    """Builds the dataclass `cls` from nested plain values, as YAML gives them.

    Args:
        cls: A dataclass.  Its fields may be dataclasses, tuples, numbers, strings, booleans and `Literal`s.  A class
            with a `from_plain(value, where)` class method parses its own values.
        values: Field name to value.  Missing fields keep their defaults; those inside a nested dataclass keep the
            defaults of the field that holds it.
        where: Dotted path of `values`, for error messages.
        defaults: Where missing fields are taken from; None for the defaults of the dataclass.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    values = {} if values is None else values
    path = where or "the settings"
    require(isinstance(values, Mapping), f"{path} must be a mapping", values, "Write it as `key: value` lines.")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(sorted(known))}."
            raise ConfigError(f"{path} has no key {key!r}. {fix}")
    converted = {} if defaults is None else {name: getattr(defaults, name) for name in known}
    for key, value in values.items():
        default = converted.get(key, _default(known[key]))
        converted[key] = _convert(hints[key], value, f"{where}.{key}".lstrip("."), default)
    return cls(**converted)


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: nested plain values, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    origin = typing.get_origin(hint)
    if hasattr(hint, "from_plain"):
        return hint.from_plain(value, where)
    if origin is Literal:
        return value  # checked by the dataclass itself: `require_choices`
    if origin in (typing.Union, types.UnionType):
        options = tuple(option for option in typing.get_args(hint) if option is not type(None))
        return None if value is None else _convert(options[0], value, where, default)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where, default)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} must be a list", value, "Write it as [a, b, c].")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, element, f"{where}[{i}]") for i, element in enumerate(value))
    if origin is dict:
        require(isinstance(value, Mapping), f"{where} must be a mapping", value, "Write it as `key: value` lines.")
        return dict(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            if math.isfinite(number := float(value)):
                return number
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint is str and type(value) is date:  # YAML reads 2026-01-31 as one
        return value.isoformat()
    raise ConfigError(
        f"{where} must be of type {getattr(hint, '__name__', hint)}; received {value!r}. Change its value."
    )
