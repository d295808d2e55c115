"""NumPy arrays in and out of TensorProto, without TensorFlow.

Works on the messages of `serving.messages` and on TensorFlow's own alike: the fields have the same names.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from serving import messages

# NumPy dtype → (TensorProto dtype, the field that holds its values)
_NUMERIC: dict[str, tuple[int, str]] = {
    "float32": (messages.DT_FLOAT, "float_val"),
    "float64": (messages.DT_DOUBLE, "double_val"),
    "int8": (messages.DT_INT8, "int_val"),
    "uint8": (messages.DT_UINT8, "int_val"),
    "int16": (messages.DT_INT16, "int_val"),
    "int32": (messages.DT_INT32, "int_val"),
    "int64": (messages.DT_INT64, "int64_val"),
    "uint32": (messages.DT_UINT32, "uint32_val"),
    "uint64": (messages.DT_UINT64, "uint64_val"),
    "bool": (messages.DT_BOOL, "bool_val"),
}
_BY_TYPE = {number: (name, field) for name, (number, field) in _NUMERIC.items()}
TYPE_NAMES = {number: name for name, (number, _) in _NUMERIC.items()} | {messages.DT_STRING: "string"}

# A shape is a claim: a few bytes may ask for any size.  More than this is no tensor but a mistake or an attack.
MAX_BYTES = 1 << 30
STRING_BYTES = 32  # what an element of text takes at least


class TensorError(ValueError):
    """A TensorProto that cannot be decoded, or a dtype that has none."""


def to_proto(values: Any, proto: Any | None = None) -> Any:
    """A TensorProto of `values`; text and bytes become DT_STRING, numbers travel as raw bytes.

    Args:
        values: An array, or what NumPy makes one of.
        proto: An empty TensorProto to fill; a new one where not given.

    Raises:
        TensorError: a dtype with no counterpart.
    """
    array = np.asarray(values)
    proto = messages.TensorProto() if proto is None else proto
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "OSU":
        proto.dtype = messages.DT_STRING
        proto.string_val.extend([v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()])
        return proto
    if array.dtype.name not in _NUMERIC:
        raise TensorError(f"an array of dtype {array.dtype} has no tensor type; convert it to float32, int64 or text")
    proto.dtype = _NUMERIC[array.dtype.name][0]
    proto.tensor_content = np.ascontiguousarray(array).tobytes()
    return proto


def fill_typed(array: np.ndarray, proto: Any) -> None:
    """As `to_proto`, with numbers in the typed `*_val` fields, as TensorFlow Serving answers."""
    if array.dtype.name not in _NUMERIC:
        to_proto(array, proto)
        return
    proto.dtype, field = _NUMERIC[array.dtype.name]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())
    if not array.ndim:
        proto.tensor_shape.SetInParent()


def to_array(proto: Any) -> np.ndarray:
    """The values of a TensorProto; text comes as bytes objects.

    Reads both encodings; a list of values shorter than the shape repeats its last value, as TensorFlow does.

    Raises:
        TensorError: an unknown dtype, values that do not fit the shape, or a shape beyond `MAX_BYTES`.
    """
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if shape and min(shape) < 0:
        raise TensorError(f"a tensor's shape must be known; received {shape}")
    count = math.prod(shape)
    if proto.dtype == messages.DT_STRING:
        _bound(count * STRING_BYTES, shape)
        values: Any = np.empty(count, object)
        given = list(proto.string_val)
        if len(given) > count or (count and not given):
            raise TensorError(f"{len(given)} strings do not fill a tensor of shape {shape}")
        values[:] = given + given[-1:] * (count - len(given))
        return values.reshape(shape)
    if proto.dtype not in _BY_TYPE:
        raise TensorError(f"tensors of type {proto.dtype} are not supported")
    name, field = _BY_TYPE[proto.dtype]
    dtype = np.dtype(name)
    _bound(count * dtype.itemsize, shape)
    if proto.tensor_content:
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise TensorError(f"{len(proto.tensor_content)} bytes do not fill a {name} tensor of shape {shape}")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    try:
        flat = np.array(getattr(proto, field), dtype)
    except OverflowError as error:
        raise TensorError(f"a value is out of the range of {name}: {error}") from error
    if 0 < len(flat) < count:
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - len(flat))])
    elif not len(flat):
        flat = np.zeros(count, dtype)
    if len(flat) != count:
        raise TensorError(f"{len(flat)} values do not fill a tensor of shape {shape}")
    return flat.reshape(shape)


def _bound(size: int, shape: tuple[int, ...]) -> None:
    if size > MAX_BYTES:
        raise TensorError(f"a tensor of shape {shape} takes {size:,} bytes; at most {MAX_BYTES:,} are accepted")
