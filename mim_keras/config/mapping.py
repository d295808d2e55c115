"""Settings as frozen dataclasses, made of plain values and checked."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting breaks its rule.  The message names the rule, the value received and the fix."""


def require(condition: bool, rule: str, received: object, fix: str) -> None:
    """Raises `ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{rule}; received {received!r}. {fix}")


def from_mapping(cls: type[T], values: Mapping[str, Any] | None, where: str = "", defaults: T | None = None) -> T:
    """Builds the dataclass `cls` from nested plain values, as YAML gives them.

    Args:
        cls: A dataclass; its fields may be dataclasses, tuples, numbers, strings, booleans.
        values: Field name to value.  Missing fields keep their defaults, those inside a nested dataclass the ones that
            the field around it has.
        where: Dotted path of `values`, for error messages.
        defaults: What missing fields are taken from; None for the dataclass' own.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    values = values or {}
    place = where or "the settings"
    require(isinstance(values, Mapping), f"{place} must be a mapping", values, "Write it as `key: value` lines.")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(sorted(known))}."
            raise ConfigError(f"{place} has no key {key!r}. {fix}")
    made = {} if defaults is None else {name: getattr(defaults, name) for name in known}
    for key, value in values.items():
        own = made.get(key, _default(known[key]))
        made[key] = _convert(hints[key], value, f"{where}.{key}".lstrip("."), own)
    return cls(**made)


def _default(of: dataclasses.Field[Any]) -> Any:
    if of.default_factory is not dataclasses.MISSING:
        return of.default_factory()
    return None if of.default is dataclasses.MISSING else of.default


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: nested plain values, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def _convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
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
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise ConfigError(
        f"{where} must be of type {getattr(hint, '__name__', hint)}; received {value!r}. Change its value."
    )
