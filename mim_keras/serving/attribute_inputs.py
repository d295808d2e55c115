"""Raw attributes of candidates, as a request gives them, in place of those in the item table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf

SEPARATOR, MOST_VALUES = "|", 64  # between the values of a list; of one candidate
NOT_GIVEN = -1  # a code that keeps the item table's
NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
PREFIX = "candidate_"


@dataclass(frozen=True)
class RawAttribute:
    """How a raw value of an item attribute becomes codes of the item table.

    Attributes:
        kind: What a raw value is.
        codes: Value → code; the values of a number are `bucket 0`, `bucket 1`, ….
        first_slot: The first column that the attribute has in the item table.
        slots: How many columns it has.
        bounds: Of a number's buckets, ascending, float64 [buckets - 1].
    """

    kind: Literal["categorical", "number", "list"]
    codes: Mapping[str, int]
    first_slot: int
    slots: int
    bounds: np.ndarray | None = None


class AttributeInputs(tf.Module):
    """Inputs `candidate_NAME`, string [N], → values and codes of attributes.

    The empty string keeps what the item table has.  `|` separates the values of a list; a number is written as
    `12.5`.  A value that the ranker did not learn counts as none, and a repeated one once.

    Args:
        attributes: By name, in the order of their slots.
        slots: Columns of the item table's attributes, those that take no input included.

    Example:
        >>> import tensorflow as tf
        >>> from mim_keras.serving.attribute_inputs import AttributeInputs, RawAttribute
        >>> brand = RawAttribute("categorical", {"a": 1, "b": 2}, first_slot=0, slots=1)
        >>> inputs = AttributeInputs({"brand": brand}, slots=2)
        >>> raw = {"candidate_brand": ["b", "", "unheard-of"], "candidate_item_ids": ["i1", "i2", "i3"]}
        >>> inputs.codes(inputs.values(raw)).numpy().tolist()
        [[2, -1], [-1, -1], [0, -1]]
    """

    def __init__(self, attributes: Mapping[str, RawAttribute], slots: int) -> None:
        super().__init__()
        self._slots = slots
        self._attributes = list(attributes.items())  # a tf.Module would sort the keys of a mapping
        self._tables = [string_table(attribute.codes, 0) for attribute in attributes.values()]

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs."""
        return tuple(f"{PREFIX}{name}" for name, _ in self._attributes)

    def values(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.RaggedTensor]:
        """The values of each attribute by name, string [N, None]; none where the input is empty."""
        return {name: _values(f"{PREFIX}{name}", inputs, attribute) for name, attribute in self._attributes}

    def codes(self, values: Mapping[str, tf.RaggedTensor]) -> tf.Tensor:
        """Codes in the columns of the item table, `NOT_GIVEN` where it keeps its own, int32 [N, slots]."""
        rows = next(iter(values.values())).nrows()
        columns: list[tf.Tensor] = []
        filled = 0
        for (name, attribute), table in zip(self._attributes, self._tables, strict=True):
            columns.append(tf.fill([rows, attribute.first_slot - filled], NOT_GIVEN))
            own = values[name]
            codes = own.with_flat_values(tf.cast(table.lookup(own.flat_values), tf.int32))
            codes = tf.ragged.boolean_mask(codes, codes > 0)[:, : attribute.slots]
            dense = codes.to_tensor(0, shape=[None, attribute.slots])
            columns.append(tf.where((own.row_lengths() > 0)[:, None], dense, NOT_GIVEN))
            filled = attribute.first_slot + attribute.slots
        return tf.concat([*columns, tf.fill([rows, self._slots - filled], NOT_GIVEN)], axis=1)

    def number(self, name: str, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        """The numbers that an input gives for an attribute, float64 [N], NaN where it is empty; None without one."""
        if not any(name == own and attribute.kind == "number" for own, attribute in self._attributes):
            return None
        given, numbers = _numbers(f"{PREFIX}{name}", tf.strings.strip(inputs[f"{PREFIX}{name}"]))
        return tf.where(given, numbers, np.nan)


def string_table(codes: Mapping[str, int] | Mapping[bytes, int], default: int) -> tf.lookup.StaticHashTable:
    """A table from strings to int64."""
    some = codes or {"\0": default}  # a table cannot be made of nothing
    keys, values = tf.constant(list(some), tf.string), tf.constant(list(some.values()), tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


def _numbers(name: str, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(Which are given, bool [N]; the numbers, 0 where none is given, float64 [N])."""
    given = raw != ""
    is_number = tf.strings.regex_full_match(raw, NUMBER)
    numbers = tf.strings.to_number(tf.where(given & is_number, raw, "0"), tf.float64)
    ok = (is_number & tf.math.is_finite(numbers)) | ~given
    check = tf.raw_ops.Assert(condition=tf.reduce_all(ok), data=[f"{name} takes numbers, such as 12.5; received", raw])
    with tf.control_dependencies([check]):
        return given, tf.identity(numbers)


def _values(name: str, inputs: Mapping[str, tf.Tensor], attribute: RawAttribute) -> tf.RaggedTensor:
    raw = tf.strings.strip(inputs[name])
    candidates = inputs["candidate_item_ids"]
    same = tf.raw_ops.Assert(
        condition=tf.size(raw) == tf.size(candidates),
        data=[f"{name} has a value for each candidate; received", tf.size(raw), "for", tf.size(candidates)],
    )
    with tf.control_dependencies([same]):
        raw = tf.identity(raw)
    if attribute.kind == "list":
        parts = tf.strings.split(raw, SEPARATOR)
        parts = parts.with_flat_values(tf.strings.strip(parts.flat_values))
        parts = tf.ragged.boolean_mask(parts, parts != "")[:, :MOST_VALUES]
        dense = parts.to_tensor("")
        before = tf.linalg.band_part(tf.ones([tf.shape(dense)[1]] * 2), -1, 0) - tf.eye(tf.shape(dense)[1])
        again = tf.reduce_any((dense[:, :, None] == dense[:, None, :]) & (before > 0), axis=2)
        return tf.ragged.boolean_mask(dense, (dense != "") & ~again)
    given = raw != ""
    if attribute.kind == "number":
        _, numbers = _numbers(name, raw)
        bucket = tf.searchsorted(tf.constant(attribute.bounds, tf.float64), numbers, side="right")
        raw = tf.strings.join(["bucket ", tf.strings.as_string(bucket)])
    return tf.RaggedTensor.from_tensor(raw[:, None], lengths=tf.cast(given, tf.int64))
