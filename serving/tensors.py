"""NumPy arrays in and out of TensorProto, without TensorFlow.

Works on the messages of `serving.messages` and on TensorFlow's own alike: the fields have the same names.
"""

from __future__ import annotations

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
    "uint16": (messages.DT_UINT16, "int_val"),
    "float16": (messages.DT_HALF, "half_val"),  # its bits
    "bfloat16": (messages.DT_BFLOAT16, "half_val"),
    "complex64": (messages.DT_COMPLEX64, "scomplex_val"),  # real and imaginary parts by turns
    "complex128": (messages.DT_COMPLEX128, "dcomplex_val"),
}
_BY_TYPE = {number: (name, field) for name, (number, field) in _NUMERIC.items()}
TYPE_NAMES = {number: name for name, (number, _) in _NUMERIC.items()} | {messages.DT_STRING: "string"}

# A shape is a claim: a few bytes may ask for any size.  A tensor may take `MAX_GROWTH` times what was sent of its
# values, and `FREE_BYTES` in any case.
MAX_BYTES, FREE_BYTES, MAX_GROWTH = 1 << 30, 4 << 20, 64
MAX_DIMS, NUMPY_DIMS = 254, 64  # TensorFlow's limit, and NumPy's
STRING_BYTES = 32  # what an element of text takes at least
CONTENT_BYTES = 1 << 16  # answers from this size on travel as raw bytes


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
    if array.dtype.name not in _NUMERIC or array.nbytes >= CONTENT_BYTES:
        to_proto(array, proto)
        return
    proto.dtype, field = _NUMERIC[array.dtype.name]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.ravel()
    if field == "half_val":
        flat = flat.view(np.uint16)
    elif field.endswith("complex_val"):
        flat = flat.view(flat.real.dtype)
    getattr(proto, field).extend(flat.tolist())
    if not array.ndim:
        proto.tensor_shape.SetInParent()


def to_array(proto: Any) -> np.ndarray:
    """The values of a TensorProto; text comes as bytes objects.

    Reads both encodings; a list of values shorter than the shape repeats its last value, as TensorFlow does.

    Raises:
        TensorError: an unknown dtype, values that do not fit the shape, or a shape that claims much more than was sent.
    """
    shape, count = _shape(proto)
    if proto.dtype == messages.DT_STRING:
        _bound(count * STRING_BYTES, shape, len(proto.string_val) * STRING_BYTES)
        values: Any = np.empty(count, object)
        given = list(proto.string_val)
        if len(given) > count or (count and not given):
            raise TensorError(f"{len(given)} strings do not fill a tensor of shape {shape}")
        values[:] = given + given[-1:] * (count - len(given))
        return values.reshape(shape)
    if proto.dtype not in _BY_TYPE:
        raise TensorError(f"tensors of type {proto.dtype} are not supported")
    name, field = _BY_TYPE[proto.dtype]
    dtype = _dtype(name)
    _bound(count * dtype.itemsize, shape, len(proto.tensor_content) or len(getattr(proto, field)) * dtype.itemsize)
    if proto.tensor_content:
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise TensorError(f"{len(proto.tensor_content)} bytes do not fill a {name} tensor of shape {shape}")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    flat = _typed_values(getattr(proto, field), field, dtype)
    if 0 < len(flat) < count:
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - len(flat))])
    elif not len(flat):
        flat = np.zeros(count, dtype)
    if len(flat) != count:
        raise TensorError(f"{len(flat)} values do not fill a tensor of shape {shape}")
    return flat.reshape(shape)


def _shape(proto: Any) -> tuple[tuple[int, ...], int]:
    """The shape, and how many values it has."""
    dims = proto.tensor_shape.dim
    if len(dims) > MAX_DIMS:
        raise TensorError(f"a tensor has at most {MAX_DIMS} dimensions; received {len(dims)}")
    shape = tuple([dim.size for dim in dims])
    if proto.tensor_shape.unknown_rank or (shape and min(shape) < 0):
        raise TensorError(f"a tensor's shape must be known; received {shape or 'an unknown rank'}")
    count = 1
    for size in shape:
        count *= max(size, 1)  # also where another size is 0
        if count > MAX_BYTES:
            raise TensorError(f"at most {MAX_BYTES:,} values of a tensor are accepted; received {_short(shape)}")
    if len(shape) > NUMPY_DIMS:
        raise TensorError(f"tensors of more than {NUMPY_DIMS} dimensions are not supported; received {len(shape)}")
    return shape, 0 if 0 in shape else count


def _short(shape: tuple[int, ...]) -> str:
    text = str(list(shape))
    return text if len(text) <= 100 else f"{text[:100]}…"


def _dtype(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes  # TensorFlow brings it; a client without it reads no bfloat16
    except ImportError as error:
        raise TensorError("tensors of type bfloat16 need the package ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)


def _typed_values(values: Any, field: str, dtype: np.dtype) -> np.ndarray:
    """The values of a `*_val` field."""
    try:
        if field == "half_val":
            return np.array(values, np.uint16).view(dtype)
        if field.endswith("complex_val"):
            parts = np.array(values, np.empty(0, dtype).real.dtype)
            if len(parts) % 2:
                raise TensorError(f"{len(parts)} numbers are no whole count of {dtype} values")
            return parts.view(dtype)
        return np.array(values, dtype)
    except OverflowError as error:
        raise TensorError(f"a value is out of the range of {dtype}: {error}") from error


def _bound(size: int, shape: tuple[int, ...], sent: int) -> None:
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_GROWTH * sent))
    if size > limit:
        raise TensorError(
            f"a tensor of shape {_short(shape)} takes {size:,} bytes; at most {limit:,} are accepted, where {sent:,} "
            "bytes of values are sent"
        )
