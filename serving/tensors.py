"""NumPy arrays in and out of TensorProto, without TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.stubs import tensor_pb2, types_pb2

# NumPy dtype → (TensorProto dtype, the field that holds its values)
_NUMERIC: dict[str, tuple[int, str]] = {
    "float32": (types_pb2.DT_FLOAT, "float_val"),
    "float64": (types_pb2.DT_DOUBLE, "double_val"),
    "int8": (types_pb2.DT_INT8, "int_val"),
    "uint8": (types_pb2.DT_UINT8, "int_val"),
    "int16": (types_pb2.DT_INT16, "int_val"),
    "int32": (types_pb2.DT_INT32, "int_val"),
    "int64": (types_pb2.DT_INT64, "int64_val"),
    "uint32": (types_pb2.DT_UINT32, "uint32_val"),
    "uint64": (types_pb2.DT_UINT64, "uint64_val"),
    "bool": (types_pb2.DT_BOOL, "bool_val"),
}
_BY_TYPE = {number: (name, field) for name, (number, field) in _NUMERIC.items()}


class TensorError(ValueError):
    """A TensorProto that cannot be decoded, or a dtype that has none."""


def to_proto(values: Any) -> Any:
    """A TensorProto of `values`; text and bytes become DT_STRING, numbers travel as raw bytes.

    Raises:
        TensorError: a dtype with no counterpart.
    """
    array = np.asarray(values)
    proto = tensor_pb2.TensorProto()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "OSU":
        proto.dtype = types_pb2.DT_STRING
        proto.string_val.extend(v if isinstance(v, bytes) else str(v).encode() for v in array.ravel())
        return proto
    if array.dtype.name not in _NUMERIC:
        raise TensorError(f"an array of dtype {array.dtype} has no tensor type; convert it to float32, int64 or text")
    proto.dtype = _NUMERIC[array.dtype.name][0]
    proto.tensor_content = np.ascontiguousarray(array).tobytes()
    return proto


def to_array(proto: Any) -> np.ndarray:
    """The values of a TensorProto; text comes as bytes objects.

    Reads both encodings; a list of values shorter than the shape repeats its last value, as TensorFlow does.

    Raises:
        TensorError: an unknown dtype, or values that do not fit the shape.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    count = int(np.prod(shape, dtype=np.int64))
    if any(size < 0 for size in shape):
        raise TensorError(f"a tensor's shape must be known; received {shape}")
    if proto.dtype == types_pb2.DT_STRING:
        values: Any = np.empty(count, object)
        given = list(proto.string_val)
        if len(given) > count or (count and not given):
            raise TensorError(f"{len(given)} strings do not fill a tensor of shape {shape}")
        values[:] = given + given[-1:] * (count - len(given))
        return values.reshape(shape)
    if proto.dtype not in _BY_TYPE:
        raise TensorError(f"tensors of type {proto.dtype} are not supported")
    name, field = _BY_TYPE[proto.dtype]
    if proto.tensor_content:
        if len(proto.tensor_content) != count * np.dtype(name).itemsize:
            raise TensorError(f"{len(proto.tensor_content)} bytes do not fill a {name} tensor of shape {shape}")
        flat = np.frombuffer(proto.tensor_content, np.dtype(name))
    else:
        flat = np.array(getattr(proto, field), np.dtype(name))
        if 0 < len(flat) < count:
            flat = np.concatenate([flat, np.repeat(flat[-1:], count - len(flat))])
        elif not len(flat):
            flat = np.zeros(count, np.dtype(name))
    if len(flat) != count:
        raise TensorError(f"{len(flat)} values do not fill a tensor of shape {shape}")
    return flat.reshape(shape)


def to_typed_proto(array: np.ndarray) -> Any:
    """As `to_proto`, with numbers in the typed `*_val` fields, as TensorFlow Serving answers."""
    proto = to_proto(array)
    if proto.tensor_content:
        field = _BY_TYPE[proto.dtype][1]
        proto.ClearField("tensor_content")
        getattr(proto, field).extend(np.asarray(array).ravel().tolist())
    return proto
