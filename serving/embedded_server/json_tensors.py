"""REST's JSON to tensors and examples and back, with TensorFlow Serving's rules and texts.

Source: tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from serving import messages
from serving.embedded_server.errors import from_code, invalid
from serving.messages import DT_STRING
from serving.tensors import TYPE_NAMES, to_array

_DEBUG_BYTES = 256
MAX_CONTAINERS, MAX_VALUES = 1_000_000, 8_000_000  # of a body, by its brackets and commas
_INT32 = (messages.DT_INT32, messages.DT_INT16, messages.DT_INT8, messages.DT_UINT8)
# dtype → (field of TensorProto, lowest, highest), for whole numbers
_WHOLE: dict[int, tuple[str, int, int]] = {
    **dict.fromkeys(_INT32, ("int_val", -(2**31), 2**31 - 1)),
    messages.DT_INT64: ("int64_val", -(2**63), 2**63 - 1),
    messages.DT_UINT32: ("uint32_val", 0, 2**32 - 1),
    messages.DT_UINT64: ("uint64_val", 0, 2**64 - 1),
}
_WRITTEN = {*_WHOLE, messages.DT_FLOAT, messages.DT_DOUBLE, messages.DT_BOOL, DT_STRING}
_OLD_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


# -- requests ----------------------------------------------------------------------------------------------


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body; text after it is ignored, as TensorFlow Serving does.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    for kind, marks, limit in (("arrays and objects", b"[{", MAX_CONTAINERS), ("values", b",", MAX_VALUES)):
        if (count := sum(body.count(bytes([mark])) for mark in marks)) > limit:
            raise invalid(f"JSON Parse error: {count:,} {kind}; at most {limit:,} are accepted")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    if not text.strip():
        raise invalid("JSON Parse error: The document is empty")
    if _SHORT_INFINITY.search(text):
        text = _TOKENS.sub(lambda token: "Infinity" if token[0] == "Inf" else token[0], text)
    try:
        document, _ = _DECODER.raw_decode(text.lstrip())
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except RecursionError as error:
        raise invalid("JSON Parse error: nested too deeply") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_debug(document)} Is not object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that is given twice the first value, as TensorFlow Serving finds it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in reversed(pairs):
            found[key] = value
    return found


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise invalid("JSON Parse error: Number too big to be stored in double.")
    return value


def _integer(digits: str) -> int | float:
    """A whole number that no 64 bits hold is a float, as RapidJSON reads it."""
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return _float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_float, parse_int=_integer)
_SHORT_INFINITY = re.compile(r"Inf(?!inity)")
# A string that is never closed goes to the end, so that no character is looked at twice.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|Inf(?:inity)?', re.DOTALL)


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature asked for, or nothing.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def fill_request(document: Mapping[str, Any], infos: Mapping[str, Any], inputs: Any) -> bool:
    """Fills a PredictRequest's inputs; returns whether the request came by rows (`instances`).

    Args:
        document: The body.
        infos: Alias → TensorInfo, of the signature.
        inputs: The request's map of tensors.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_debug(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {_debug(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {_debug(document)} No values in 'instances' array")
        _fill_rows(instances, infos, inputs)
        return True
    if "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    given = document["inputs"]
    if not isinstance(given, dict) or _is_base64(given):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        given = {next(iter(infos)): given}
    for alias, info in infos.items():
        if alias not in given:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        _fill_tensor(given[alias], info.dtype, _shape(given[alias]), inputs[alias])
    return False


def _fill_rows(instances: list[Any], infos: Mapping[str, Any], inputs: Any) -> None:
    def is_object(value: Any) -> bool:
        return isinstance(value, dict) and not _is_base64(value)

    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    objects = is_object(instances[0])
    shapes: dict[str, tuple[int, ...]] = {}
    for row, element in enumerate(instances):
        if objects and not is_object(element):
            raise invalid(f"Expecting object but got list at item {row} of input list")
        if not objects and is_object(element):
            raise invalid(f"Expecting value/list but got object at item {row} of input list")
        named = element if objects else {next(iter(infos)): element}
        for alias, value in named.items():
            where = f"Failed to process element: {row}{f' key: {alias}' if objects else ''} of 'instances' list."
            if alias not in infos:
                raise invalid(f"{where} Error: INVALID_ARGUMENT: JSON object: does not have named input: {alias}")
            shape = _shape(value)
            try:
                if alias in shapes and math.prod(shapes[alias]) != math.prod(shape):
                    raise invalid(f"Expecting tensor size: {math.prod(shapes[alias])} but got: {math.prod(shape)}")
                if shapes.setdefault(alias, shape) != shape:
                    raise invalid(f"Expecting shape {_listed(shapes[alias])} but got: {_listed(shape)}")
                _fill_values(value, 0, infos[alias].dtype, shape, inputs[alias])
            except Exception as error:
                if not hasattr(error, "message"):
                    raise
                raise invalid(f"{where} Error: INVALID_ARGUMENT: {error.message}") from error
        if objects and set(named) != set(infos):
            raise invalid(
                f"Failed to process element: {row} of 'instances' list. JSON object: {_debug(element)} keys must be "
                f"equal to: {','.join(sorted(infos))}"
            )
    for alias, shape in shapes.items():
        inputs[alias].dtype = infos[alias].dtype
        for size in (len(instances), *shape):
            inputs[alias].tensor_shape.dim.add(size=size)


def _shape(value: Any) -> tuple[int, ...]:
    """By the first element of each level, as TensorFlow Serving does; `_fill_values` refuses what differs."""
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(sizes)


def _fill_tensor(value: Any, dtype: int, shape: tuple[int, ...], proto: Any) -> None:
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    _fill_values(value, 0, dtype, shape, proto)


def _fill_values(value: Any, level: int, dtype: int, shape: tuple[int, ...], proto: Any) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                f"level: {len(shape)}"
            )
        _add_value(value, dtype, proto)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        _fill_values(element, level + 1, dtype, shape, proto)


def _add_value(value: Any, dtype: int, proto: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in (messages.DT_FLOAT, messages.DT_DOUBLE):
        if number:
            try:
                (proto.float_val if dtype == messages.DT_FLOAT else proto.double_val).append(value)
            except (OverflowError, ValueError) as error:
                raise _type_error(value, dtype) from error
            return
    elif dtype in _WHOLE:
        field, low, high = _WHOLE[dtype]
        if number and isinstance(value, int) and low <= value <= high:
            getattr(proto, field).append(value)
            return
    elif dtype == DT_STRING:
        if isinstance(value, str):
            proto.string_val.append(value.encode("utf-8", "surrogatepass"))
            return
        if isinstance(value, dict):
            proto.string_val.append(_base64(value))
            return
    elif dtype == messages.DT_BOOL:
        if isinstance(value, bool):
            proto.bool_val.append(value)
            return
    else:
        raise from_code(12, f"Conversion of JSON Value: {_debug(value)} to type: {_type_name(dtype)}")
    raise _type_error(value, dtype)


def fill_examples(document: Mapping[str, Any], given: Any) -> None:
    """Fills the Input of a Classify or Regress request.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    target = given.example_list
    if "context" in document:
        target = given.example_list_with_context
        _fill_example(document["context"], target.context)
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {_debug(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {_debug(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {_debug(document)} 'examples' value is an empty array")
    for example in examples:
        _fill_example(example, target.examples.add())


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_kind(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            _add_to_feature(element, name, feature)


def _add_to_feature(value: Any, name: str, feature: Any) -> None:
    if value is None or isinstance(value, list) or (isinstance(value, dict) and not _is_base64(value)):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_kind(value)}")
    kind, own = "int64", value
    if isinstance(value, (str, dict)):
        kind, own = "bytes", value.encode() if isinstance(value, str) else _base64(value)
    elif isinstance(value, float):
        kind = "float"
    elif not isinstance(value, bool) and value >= 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if (now := feature.WhichOneof("kind")) not in (None, f"{kind}_list"):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {now.removesuffix('_list')}")
    getattr(feature, f"{kind}_list").value.append(own)


# -- answers -----------------------------------------------------------------------------------------------


def outputs_to_json(outputs: Mapping[str, Any], rows: bool) -> str:
    """The body of an answer to Predict: `predictions` by rows, or `outputs` by columns.

    Raises:
        ServingFault: INVALID_ARGUMENT, for outputs that have no rows.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    values = {alias: _values(alias, outputs[alias]) for alias in sorted(outputs)}
    if not rows:
        found = values if len(values) > 1 else next(iter(values.values()))
        return _dumped({"outputs": found})
    size = None
    for alias in values:
        shape = outputs[alias].tensor_shape.dim
        if not shape:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if size is not None and shape[0].size != size:
            raise invalid(f"Tensor name: {alias} has inconsistent batch size: {shape[0].size} expecting: {size}")
        size = shape[0].size
    if len(values) == 1:
        return _dumped({"predictions": next(iter(values.values()))})
    return _dumped({"predictions": [{alias: own[row] for alias, own in values.items()} for row in range(size or 0)]})


def classes_to_json(result: Any) -> str:
    """The body of an answer to Classify."""
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    found = [[[entry.label, _decimal(entry.score)] for entry in row.classes] for row in result.classifications]
    return _dumped({"results": found})


def regressions_to_json(result: Any) -> str:
    """The body of an answer to Regress."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    return _dumped({"results": [_decimal(entry.value) for entry in result.regressions]})


def _dumped(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def _decimal(value: float) -> float:
    """A float32 as the number of at most nine digits that TensorFlow Serving writes: six, where they say the same."""
    short = float(f"{value:.6g}")
    return short if np.float32(short) == np.float32(value) else float(f"{value:.9g}")


def _values(alias: str, proto: Any) -> Any:
    array = to_array(proto)
    if proto.dtype not in _WRITTEN and array.size:
        raise invalid(f"Failed to write JSON value for tensor type: {_type_name(proto.dtype)}")
    if proto.dtype == DT_STRING:
        change: Callable[[bytes], Any] = _told_bytes if alias.endswith("_bytes") else _told_text
        return _mapped(array.tolist(), change)
    if proto.dtype == messages.DT_FLOAT:
        return _mapped(array.tolist(), _decimal)
    return array.tolist()


def _mapped(values: Any, change: Callable[[Any], Any]) -> Any:
    return [_mapped(value, change) for value in values] if isinstance(values, list) else change(values)


def _told_bytes(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _told_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")  # bytes that are no text go out as they are


# -- small -------------------------------------------------------------------------------------------------


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _base64(value: Any) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_debug(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")  # TensorFlow Serving takes both, with padding and without
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _type_error(value: Any, dtype: int) -> Exception:
    return invalid(f"JSON Value: {_debug(value)} Type: {_kind(value)} is not of expected type: {_type_name(dtype)}")


def _type_name(dtype: int) -> str:
    name = TYPE_NAMES.get(dtype, str(dtype))
    return _OLD_NAMES.get(name, name)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    named = {"dict": "Object", "list": "Array", "str": "String"}
    return named.get(type(value).__name__, "Number")


def _debug(value: Any) -> str:
    """The first characters of the value, without writing the rest."""
    text = ""
    for part in json.JSONEncoder(indent=4).iterencode(value):
        text += part[:_DEBUG_BYTES]
        if len(text) >= _DEBUG_BYTES:
            break
    return text[:_DEBUG_BYTES]


def _listed(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"
