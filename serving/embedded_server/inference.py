"""Predict, Classify, Regress and MultiInference over one loaded model, with TensorFlow Serving's checks and texts.

Source: tensorflow_serving/servables/tensorflow/{predict_util,classifier,regressor,multi_inference,util}.cc.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded_server.errors import failed_precondition, from_code, invalid
from serving.tensors import TYPE_NAMES, TensorError, fill_typed, to_array, to_proto

if TYPE_CHECKING:
    from serving.embedded_server.loaded_model import LoadedModel, Signature

DEFAULT_SIGNATURE = "serving_default"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_OLD_NAMES = {"float32": "float", "float64": "double", "float16": "half"}  # as the runtime writes them


# -- Predict -----------------------------------------------------------------------------------------------


def predict(model: LoadedModel, request: Any, seconds: float | None) -> Any:
    """A PredictResponse.

    Args:
        model: What answers.
        request: A PredictRequest.
        seconds: How long the run may take; None is without bound.

    Raises:
        ServingFault: with TensorFlow Serving's code and text.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = model.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    inputs = request.inputs
    if len(inputs) != len(signature.aliases) or any(alias not in inputs for alias in signature.aliases):
        inputs = _with_defaults(signature, inputs)
    aliases, fetches = signature.fetched, signature.fetches
    if request.output_filter:
        aliases = _check_outputs(signature, list(request.output_filter))
        fetches = tuple(signature.outputs[alias].name for alias in aliases)
    arrays = []
    for alias in signature.aliases:
        try:
            arrays.append(to_array(inputs[alias]))
        except TensorError as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    started = time.perf_counter()
    values = model.runner.run(signature.feeds, arrays, fetches, seconds)
    model.monitoring.runtime_latency.add((time.perf_counter() - started) * 1e6, model.name, "Predict", "TF1")
    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, model, name)
    outputs = response.outputs
    for alias, array in zip(aliases, values, strict=True):
        (to_proto if model.as_content else fill_typed)(np.asarray(array), outputs[alias])
    return response


def _with_defaults(signature: Signature, inputs: Any) -> dict[str, Any]:
    """Every input of the signature, those left out as the signature gives them."""
    wanted, sent = set(signature.aliases), set(inputs)
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_listed(sent)}) != "
            f"len({_listed(wanted)}). Sent extra: {_listed(sent - wanted)}. "
            f"Missing but required: {_listed(wanted - sent)}."
        )
    for alias in sorted(wanted - sent - set(signature.defaults)):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
            f"no default value provided. Inputs expected to be in the request {_listed(sent)}, or default input "
            f"alias set: {','.join(sorted(signature.defaults))}"
        )
    if sent - wanted:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & wanted))}, request input: "
            f"{','.join(sorted(sent))}"
        )
    return {alias: inputs[alias] if alias in sent else signature.defaults[alias] for alias in signature.aliases}


def _check_outputs(signature: Signature, wanted: list[str]) -> tuple[str, ...]:
    seen = set()
    for alias in wanted:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_listed(set(signature.outputs))}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return tuple(sorted(wanted))


# -- Classify and Regress ----------------------------------------------------------------------------------


def classify(model: LoadedModel, request: Any, seconds: float | None) -> Any:
    """A ClassificationResponse.

    Raises:
        ServingFault: with TensorFlow Serving's code and text.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = _found(model, name)
    fetched = _classify_outputs(signature)
    count, values = _run_examples(model, request.input, signature, fetched, "Classify", seconds)
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, model, name)
    _fill_classes(response.result, count, values)
    return response


def regress(model: LoadedModel, request: Any, seconds: float | None) -> Any:
    """A RegressionResponse.

    Raises:
        ServingFault: with TensorFlow Serving's code and text.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = _found(model, name)
    fetched = _regress_outputs(signature)
    count, values = _run_examples(model, request.input, signature, fetched, "Regress", seconds)
    response = regression_pb2.RegressionResponse()
    _fill_spec(response.model_spec, model, name)
    _fill_regressions(response.result, count, values["outputs"])
    return response


def multi_inference(model: LoadedModel, request: Any, seconds: float | None) -> Any:
    """A MultiInferenceResponse: several signatures over the same examples, in one run.

    Raises:
        ServingFault: with TensorFlow Serving's code and text.
    """
    tasks: dict[str, tuple[Signature, str, tuple[str, ...]]] = {}
    names = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        names.add(task.model_spec.name)
        if len(names) > 1:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in tasks:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        if name not in model.signatures:
            raise invalid(f"Requested signature not found in model graph: {name}")
        signature = model.signatures[name]
        if task.method_name == CLASSIFY:
            tasks[name] = (signature, CLASSIFY, _classify_outputs(signature))
        elif task.method_name == REGRESS:
            tasks[name] = (signature, REGRESS, _regress_outputs(signature))
        else:
            raise from_code(12, f"Unsupported signature method_name: {task.method_name}")
    examples = _examples(request.input)
    model.monitoring.example_counts.add(len(examples), model.name)
    model.monitoring.example_count_total.add(model.name, count=len(examples))
    feeds = tuple(sorted({signature.inputs["inputs"].name for signature, _, _ in tasks.values()}))
    fetches = tuple(
        sorted({signature.outputs[alias].name for signature, _, aliases in tasks.values() for alias in aliases})
    )
    values = dict(zip(fetches, model.runner.run(feeds, [examples] * len(feeds), fetches, seconds), strict=True))
    response = inference_pb2.MultiInferenceResponse()
    for name, (signature, method, aliases) in tasks.items():
        own = {alias: np.asarray(values[signature.outputs[alias].name]) for alias in aliases}
        result = response.results.add()
        _fill_spec(result.model_spec, model, name)
        if method == CLASSIFY:
            _fill_classes(result.classification_result, len(examples), own)
        else:
            _fill_regressions(result.regression_result, len(examples), own["outputs"])
    return response


def _found(model: LoadedModel, name: str) -> Signature:
    if name not in model.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return model.signatures[name]


def _classify_outputs(signature: Signature) -> tuple[str, ...]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {_listed(set(signature.inputs))}")
    found = tuple(alias for alias in ("classes", "scores") if alias in signature.outputs)
    if not found:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_listed(set(signature.outputs))}"
        )
    return found


def _regress_outputs(signature: Signature) -> tuple[str, ...]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {_listed(set(signature.inputs))}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_listed(set(signature.outputs))}")
    return ("outputs",)


def _examples(given: Any) -> np.ndarray:
    """Serialised tf.Examples [n] of an Input; a shared context goes before each."""
    kind = given.WhichOneof("kind")
    own, context = [], b""
    if kind == "example_list":
        own = given.example_list.examples
    elif kind == "example_list_with_context":
        own = given.example_list_with_context.examples
        context = given.example_list_with_context.context.SerializeToString()
    if not len(own):
        raise invalid("Input is empty.")
    examples = np.empty(len(own), object)
    examples[:] = [context + example.SerializeToString() for example in own]
    return examples


def _run_examples(
    model: LoadedModel,
    given: Any,
    signature: Signature,
    aliases: tuple[str, ...],
    api: str,
    seconds: float | None,
) -> tuple[int, dict[str, np.ndarray]]:
    examples = _examples(given)
    fetches = tuple(signature.outputs[alias].name for alias in aliases)
    started = time.perf_counter()
    values = model.runner.run((signature.inputs["inputs"].name,), [examples], fetches, seconds)
    model.monitoring.runtime_latency.add((time.perf_counter() - started) * 1e6, model.name, api, "TF1")
    return len(examples), {alias: np.asarray(value) for alias, value in zip(aliases, values, strict=True)}


def _fill_classes(result: Any, count: int, values: dict[str, np.ndarray]) -> None:
    for alias, kind, named in (("classes", "O", "DT_STRING"), ("scores", "f", "DT_FLOAT")):
        if alias not in values:
            continue
        array = values[alias]
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.dtype.kind != kind or (kind == "f" and array.dtype != np.float32):
            raise invalid(f"Expected {alias} Tensor of {named}. Got: {_enum_name(array)}")
        if len(array) != count:
            raise invalid(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    classes, scores = values.get("classes"), values.get("scores")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    width = next(array for array in (classes, scores) if array is not None).shape[1]
    for row in range(count):
        entry = result.classifications.add()
        for column in range(width):
            added = entry.classes.add()
            if classes is not None:
                added.label = classes[row, column].decode("utf-8", "replace")
            if scores is not None:
                added.score = scores[row, column]


def _fill_regressions(result: Any, count: int, array: np.ndarray) -> None:
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}"
        )
    if len(array) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_enum_name(array)}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


# -- small -------------------------------------------------------------------------------------------------


def _fill_spec(spec: Any, model: LoadedModel, signature: str) -> None:
    spec.name, spec.signature_name = model.name, signature
    spec.version.value = model.version


def _type_name(number: int) -> str:
    name = TYPE_NAMES.get(number, str(number))
    return _OLD_NAMES.get(name, name)


def _enum_name(array: np.ndarray) -> str:
    name = "string" if array.dtype.kind == "O" else array.dtype.name
    return "DT_" + _OLD_NAMES.get(name, name).upper()


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def _listed(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
