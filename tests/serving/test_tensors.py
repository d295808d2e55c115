"""TensorProtos as TensorFlow itself makes and reads them."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving import messages
from serving.tensors import TensorError, fill_typed, to_array, to_proto

KINDS = st.sampled_from(
    [*("float32", "float64", "int8", "uint8", "int32", "int64", "bool"), "uint16", "float16", "complex64", "complex128"]
)


@given(KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))))
@settings(max_examples=150, deadline=None)
def test_both_encodings_are_read_by_tensorflow_and_by_us(array: np.ndarray) -> None:
    typed = tensor_pb2.TensorProto()
    fill_typed(array, typed)
    for proto in (to_proto(array), typed, tf.make_tensor_proto(array)):
        theirs = tensor_pb2.TensorProto.FromString(proto.SerializeToString())
        ours = messages.TensorProto.FromString(proto.SerializeToString())
        for read in (to_array(proto), to_array(ours), to_array(theirs), tf.make_ndarray(theirs)):
            np.testing.assert_array_equal(read, array)


def test_text() -> None:
    proto = to_proto(np.array([["a", "ü"], ["", "d"]]))
    assert to_array(proto).tolist() == [[b"a", "ü".encode()], [b"", b"d"]]
    theirs = tensor_pb2.TensorProto.FromString(proto.SerializeToString())
    assert tf.make_ndarray(theirs).tolist() == to_array(proto).tolist()


def test_a_short_list_repeats_its_last_value() -> None:
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0, 2.0])
    proto.tensor_shape.dim.add(size=4)
    assert to_array(proto).tolist() == [1, 2, 2, 2]


def test_what_does_not_fit_is_refused() -> None:
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"1234567")
    proto.tensor_shape.dim.add(size=2)
    with pytest.raises(TensorError, match="7 bytes do not fill a float32 tensor of shape"):
        to_array(proto)
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"a", b"b"])
    proto.tensor_shape.dim.add(size=1)
    with pytest.raises(TensorError, match="2 strings do not fill a tensor of shape"):
        to_array(proto)
    with pytest.raises(TensorError, match="are not supported"):
        to_array(tensor_pb2.TensorProto(dtype=types_pb2.DT_RESOURCE))
    with pytest.raises(TensorError, match="has no tensor type"):
        to_proto(np.array(["2026-01-01"], "datetime64[D]"))


def test_bfloat16() -> None:
    array = np.array([1.5, -2.0, 0.0], tf.bfloat16.as_numpy_dtype)
    typed = tensor_pb2.TensorProto()
    fill_typed(array, typed)
    for proto in (to_proto(array), typed, tf.make_tensor_proto(array)):
        np.testing.assert_array_equal(to_array(proto), array)
        np.testing.assert_array_equal(
            tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString())), array
        )


def test_large_answers_travel_as_bytes() -> None:
    proto = messages.TensorProto()
    fill_typed(np.ones(100_000, np.float32), proto)
    assert len(proto.tensor_content) == 400_000


def test_a_claim_costs_nothing() -> None:
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0])
    for _ in range(64_000):
        proto.tensor_shape.dim.add(size=2**62)
    started = time.perf_counter()
    with pytest.raises(TensorError, match="at most 254 dimensions; received 64000"):
        to_array(proto)
    assert time.perf_counter() - started < 2, "their product would take ten seconds"
    for dims, rule in ((65, "more than 64 dimensions are not supported"), (255, "at most 254 dimensions")):
        proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0])
        for _ in range(dims):
            proto.tensor_shape.dim.add(size=1)
        with pytest.raises(TensorError, match=rule):
            to_array(proto)
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0])
    proto.tensor_shape.dim.add(size=2**24)
    with pytest.raises(TensorError, match="takes 67,108,864 bytes; at most 4,194,304"):
        to_array(proto)
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
    for size in (2**62, 2**62, 0):
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(TensorError, match="are accepted"):
        to_array(proto)
    with pytest.raises(TensorError, match="shape must be known"):
        to_array(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape={"unknown_rank": True}))


def test_a_shape_that_claims_the_moon_is_refused() -> None:
    for dtype in (types_pb2.DT_FLOAT, types_pb2.DT_STRING):
        proto = tensor_pb2.TensorProto(dtype=dtype, float_val=[1.0], string_val=[b"a"])
        proto.tensor_shape.dim.add(size=2**62)
        proto.tensor_shape.dim.add(size=2**62)
        with pytest.raises(TensorError, match="are accepted"):
            to_array(proto)
