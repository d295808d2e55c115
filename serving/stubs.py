"""The tensorflow-serving-api messages and stubs, without TensorFlow.

Their Python files import `tensorflow.core.*_pb2`, and with it the whole of TensorFlow: seconds, and hundreds of
megabytes.  The messages need protobuf alone, so while they are imported a bare package of the same name and
place stands in for `tensorflow`.  Where TensorFlow is imported already, or later, nothing is different.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

_APIS = (
    "classification_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "model_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "regression_pb2",
)
_CORE = (
    "tensorflow.core.framework.tensor_pb2",
    "tensorflow.core.framework.types_pb2",
    "tensorflow.core.protobuf.meta_graph_pb2",
)


def _import_all() -> dict[str, Any]:
    stand_in = None
    if "tensorflow" not in sys.modules:
        found = importlib.util.find_spec("tensorflow")
        if found is None or found.submodule_search_locations is None:
            raise ImportError(
                "the messages of tensorflow-serving-api need the package tensorflow; install the project again"
            )
        stand_in = types.ModuleType("tensorflow")
        stand_in.__path__ = list(found.submodule_search_locations)
        sys.modules["tensorflow"] = stand_in
    try:
        names = [*(f"tensorflow_serving.apis.{name}" for name in _APIS), *_CORE]
        return {name.rsplit(".", 1)[1]: importlib.import_module(name) for name in names}
    finally:
        if stand_in is not None and sys.modules.get("tensorflow") is stand_in:
            del sys.modules["tensorflow"]


_modules = _import_all()
classification_pb2 = _modules["classification_pb2"]
get_model_metadata_pb2 = _modules["get_model_metadata_pb2"]
get_model_status_pb2 = _modules["get_model_status_pb2"]
inference_pb2 = _modules["inference_pb2"]
meta_graph_pb2 = _modules["meta_graph_pb2"]
model_pb2 = _modules["model_pb2"]
model_service_pb2_grpc = _modules["model_service_pb2_grpc"]
predict_pb2 = _modules["predict_pb2"]
prediction_service_pb2_grpc = _modules["prediction_service_pb2_grpc"]
regression_pb2 = _modules["regression_pb2"]
tensor_pb2 = _modules["tensor_pb2"]
types_pb2 = _modules["types_pb2"]
