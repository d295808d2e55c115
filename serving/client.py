"""Asks a server, TensorFlow Serving or the embedded one: rank, similar, embed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np

from serving.stubs import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from serving.tensors import to_array, to_proto

if TYPE_CHECKING:
    from serving.representation_center.center import RepresentationCenter

log = logging.getLogger("mim")

ENCODER, RANKER, RETRIEVAL = "mim_encoder", "mim_ranker", "mim_retrieval"
DEFAULT_AGE = 3600  # seconds, for a history that comes without ages
AVAILABLE, END = 30, 50

# Predict only reads, so a call that never reached a server may be sent again; nothing else may.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]


class ServerError(RuntimeError):
    """A server refused a call or could not be reached.

    Attributes:
        code: The gRPC status.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Scored:
    """An item and its score: the predicted click-through rate, or a cosine."""

    item_id: str
    score: float


class MimClient:
    """One channel to one server; keep it as long as you call.

    Args:
        target: `host:port`.
        timeout: Seconds a call may take.
        center: Where `rank` finds vectors of items newer than the ranker's snapshot; without it they are ranked
            by their ids alone.
    """

    def __init__(
        self, target: str = "localhost:8500", timeout: float = 2.0, center: RepresentationCenter | None = None
    ) -> None:
        self._target, self._timeout, self._center = target, timeout, center
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> MimClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def rank(
        self,
        user_id: str,
        history_item_ids: Sequence[str],
        candidate_item_ids: Sequence[str],
        history_ages: Sequence[int] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> list[Scored]:
        """The candidates with their predicted click-through rates, best first.

        Candidates that the ranker has no vector of get theirs from the Center, of the very encoder version that
        the ranker was trained on.  Where the Center does not answer, they are ranked without.

        Args:
            user_id: Unknown users are ranked by their history alone.
            history_item_ids: Clicked items, most recent last.
            candidate_item_ids: At least one.
            history_ages: Seconds since each click; an hour each where not given.
            context: A value for each context feature the ranker was trained with.

        Raises:
            ValueError: no candidate, or ages that do not match the history.
            ServerError: the server refused or did not answer.
            CenterError: the Center has no vectors of the version that the ranker was trained on.
        """
        if not candidate_item_ids:
            raise ValueError("rank needs at least one candidate; received none. Name the items to be ranked")
        ages = list(history_ages) if history_ages is not None else [DEFAULT_AGE] * len(history_item_ids)
        if len(ages) != len(history_item_ids):
            raise ValueError(
                f"each item of the history needs an age; received {len(ages)} ages for {len(history_item_ids)} items"
            )
        inputs = {
            "user_id": _texts([user_id]),
            "history_item_ids": _texts(history_item_ids),
            "history_ages": np.array(ages, np.int64),
            "candidate_item_ids": _texts(candidate_item_ids),
            **{name: _texts([value]) for name, value in (context or {}).items()},
        }
        answer = self._predict(RANKER, "rank", inputs)
        scores = answer["ctr"]
        if self._center is not None:
            scores = self._with_center(self._center, inputs, answer)
        pairs = (Scored(item, float(score)) for item, score in zip(candidate_item_ids, scores, strict=True))
        return sorted(pairs, key=lambda scored: -scored.score)

    def _with_center(
        self, center: RepresentationCenter, inputs: dict[str, np.ndarray], answer: dict[str, np.ndarray]
    ) -> np.ndarray:
        """The scores of `answer`, those of items newer than the ranker's snapshot made with the Center's vectors."""
        from serving.representation_center.center import CenterError, CenterUnavailable

        if "has_vector" not in answer:
            raise CenterError(
                "the served ranker does not say which encoder it was trained on; export it again, or rank without a "
                "Center"
            )
        for _ in range(2):  # a new ranker may take over between the two calls; then both are made once more
            scores, unseen = answer["ctr"], np.flatnonzero(~answer["has_vector"])
            if not len(unseen):
                return scores
            version = answer["encoder_version"][0].decode()
            candidates = inputs["candidate_item_ids"]
            try:
                found = center.get([candidates[row].decode() for row in unseen], version)
            except CenterUnavailable as error:
                log.warning("%s; %d new items are ranked without their vectors", error, len(unseen))
                return scores
            if not found.mask.any():
                return scores
            rows = unseen[found.mask]
            with_vectors = {
                **inputs,
                "candidate_item_ids": candidates[rows],
                "candidate_vectors": found.vectors[found.mask],
                "encoder_version": _texts([version]),
            }
            try:
                own = self._predict(RANKER, "rank_with_vectors", with_vectors)["ctr"]
            except ServerError as error:
                if "must be of encoder" not in str(error):
                    raise
                answer = self._predict(RANKER, "rank", inputs)
                continue
            scores = scores.copy()
            scores[rows] = own
            return scores
        return answer["ctr"]

    def similar(self, item_id: str, count: int = 10) -> list[Scored]:
        """The items whose content is nearest to an item's, with their cosines, nearest first.

        Raises:
            ServerError: NOT_FOUND for an item that the index has no vector of.
        """
        outputs = self._predict(RETRIEVAL, "similar_items", {"item_id": _texts([item_id])})
        if not np.any(outputs["scores"]):
            raise ServerError(
                f"the index has no vector of item {item_id!r}; is it in the catalogue?", grpc.StatusCode.NOT_FOUND
            )
        return [scored for scored in _scored(outputs) if scored.item_id != item_id][:count]

    def nearest(self, embedding: np.ndarray, count: int = 10) -> list[Scored]:
        """The items nearest to a vector of length one, [d]."""
        outputs = self._predict(RETRIEVAL, "", {"embedding": np.asarray(embedding, np.float32)[None, :]})
        return _scored(outputs)[:count]

    def embed(self, image: bytes = b"", title: str = "", text: str = "") -> np.ndarray:
        """The embedding of an item's content, float32 [d] of length one.

        Raises:
            ValueError: neither a picture nor words.
        """
        if not (image or title or text):
            raise ValueError("embed needs a picture or words; received neither. Give an image, a title or a text")
        vectors, _ = self.embed_many([(image, title, text)])
        vector: np.ndarray = vectors[0]
        return vector

    def embed_many(self, contents: Sequence[tuple[bytes, str, str]]) -> tuple[np.ndarray, str]:
        """(embeddings float32 [n, d] of contents (image, title, text), version of the encoder that made them).

        Raises:
            ServerError: the server refused or did not answer.
        """
        images = np.empty(len(contents), object)
        images[:] = [image for image, _, _ in contents]
        inputs = {
            "image": images,
            "title": _texts([title for _, title, _ in contents]),
            "text": _texts([text for _, _, text in contents]),
        }
        answer = self._predict(ENCODER, "", inputs)
        return answer["embedding"], answer["encoder_version"][0].decode()

    def version(self, model: str) -> int | None:
        """The newest available version of a model, or None.

        Raises:
            ServerError: the server cannot be reached.
        """
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self._models.GetModelStatus(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise self._refused(error) from error
        return max((entry.version for entry in response.model_version_status if entry.state == AVAILABLE), default=None)

    def wait_until_available(self, *models: str, seconds: float = 60.0) -> dict[str, int]:
        """Waits for a version of each model and returns them.

        Raises:
            ServerError: DEADLINE_EXCEEDED after `seconds`.
        """
        deadline = time.monotonic() + seconds
        versions: dict[str, int] = {}
        while missing := [model for model in models if model not in versions]:
            for model in missing:
                try:
                    found = self.version(model)
                except ServerError as error:
                    if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise
                    found = None
                if found is not None:
                    versions[model] = found
            if len(versions) < len(models) and time.monotonic() > deadline:
                still = ", ".join(model for model in models if model not in versions)
                message = f"{still} not available on {self._target} after {seconds:.0f} s"
                raise ServerError(message, grpc.StatusCode.DEADLINE_EXCEEDED)
            if len(versions) < len(models):
                time.sleep(0.1)
        return versions

    def _predict(self, model: str, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(to_proto(values))
        try:
            response = self._prediction.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._refused(error) from error
        return {name: to_array(values) for name, values in response.outputs.items()}

    def _refused(self, error: grpc.RpcError) -> ServerError:
        code, details = error.code(), (error.details() or "").split("\n\t [[")[0]
        if code == grpc.StatusCode.UNAVAILABLE:
            details = f"no server answers at {self._target}; start one with `mim serve --models DIR` ({details})"
        return ServerError(f"{code.name}: {details}", code)


def _texts(values: Sequence[str]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


def _scored(outputs: dict[str, np.ndarray]) -> list[Scored]:
    pairs = zip(outputs["item_ids"][0], outputs["scores"][0], strict=True)
    return [Scored(item.decode(), float(score)) for item, score in pairs]
