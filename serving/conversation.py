"""What a client says to a server and makes of its answers, without saying how it travels.

Each question is a generator: it yields calls, is sent their answers, and returns its result.  `MimClient` runs it
with blocking calls, `AsyncMimClient` with asyncio: the logic is here, once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np

from serving import messages
from serving.channel import ServerError
from serving.representation_center.ids import normalize_id
from serving.signatures import Signatures
from serving.tensors import to_array, to_proto

log = logging.getLogger("mim")

ENCODER, RANKER, RETRIEVAL = "mim_encoder", "mim_ranker", "mim_retrieval"
CANARY = "canary"
DEFAULT_AGE = 3600  # seconds, for a history that comes without ages

Result = TypeVar("Result")
Choice = int | str | None  # a version, a label, or the newest


@dataclass(frozen=True)
class Call:
    """One call: the method's name and its request."""

    method: str
    request: Any


@dataclass(frozen=True)
class Lookup:
    """A look into the Representation Center; answered with its `Found`, or None where it does not answer."""

    item_ids: list[str]
    encoder_version: str


Talk = Generator[Call | Lookup, Any, Result]


class Scored(NamedTuple):
    """An item and its score: the predicted click-through rate, or a cosine."""

    item_id: str
    score: float


class Scores(list[Scored]):
    """Items with their scores, best first.

    Attributes:
        version: Of the model that answered.
    """

    def __init__(self, scored: Sequence[Scored], version: int) -> None:
        super().__init__(scored)
        self.version = version


class Embeddings(NamedTuple):
    """Vectors float32 [n, d] of length one, the encoder they are of, and the version of the model that answered."""

    vectors: np.ndarray
    encoder_version: str
    version: int


@dataclass(frozen=True)
class VersionStatus:
    """A version of a model as the server sees it: START, LOADING, AVAILABLE, UNLOADING or END, and what went wrong."""

    version: int
    state: str
    code: int = 0
    message: str = ""


@dataclass
class Conversation:
    """Questions to the models of one server.

    Attributes:
        has_center: Whether `Lookup`s are answered.
        versions: Model → the version to ask; the newest available where not named.
        labels: Model → the label to ask, `stable` say; a model has a version or a label, not both.
        canaries: Model → the share of its questions, 0 to 1, that ask the label `canary` instead, as long as the
            server has that label.
        fall_back: Ask the newest version where the version or label named is gone.
        validate: Check requests against the model's own signatures first.
    """

    has_center: bool = False
    versions: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    canaries: Mapping[str, float] = field(default_factory=dict)
    fall_back: bool = False
    validate: bool = True
    _signatures: dict[tuple[str, int | str | None], Signatures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for model, share in self.canaries.items():
            if not 0 <= share <= 1:
                raise ValueError(f"a canary's share must be from 0 to 1; received {share} for {model}")
        both = sorted(set(self.versions) & set(self.labels))
        if both:
            raise ValueError(f"a model is asked by version or by label; received both for {', '.join(both)}")

    # -- questions -----------------------------------------------------------------------------------------

    def rank(
        self,
        user_id: str,
        history_item_ids: Sequence[str],
        candidate_item_ids: Sequence[str],
        history_ages: Sequence[int] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Talk[Scores]:
        """See `MimClient.rank`."""
        if not candidate_item_ids:
            raise ValueError("rank needs at least one candidate; received none. Name the items to be ranked")
        ages = list(history_ages) if history_ages is not None else [DEFAULT_AGE] * len(history_item_ids)
        if len(ages) != len(history_item_ids):
            raise ValueError(
                f"each item of the history needs an age; received {len(ages)} ages for {len(history_item_ids)} items"
            )
        inputs = {
            "user_id": texts([normalize_id(user_id)]),
            "history_item_ids": texts([normalize_id(one) for one in history_item_ids]),
            "history_ages": np.array(ages, np.int64),
            "candidate_item_ids": texts([normalize_id(one) for one in candidate_item_ids]),
            **{name: texts([_feature_text(value)]) for name, value in (context or {}).items()},
        }
        answer, version = yield from self.predict(RANKER, "rank", inputs)
        scores = answer["ctr"]
        if self.has_center:
            scores, version = yield from self._with_center(inputs, answer, version)
        order = np.argsort(-scores, kind="stable").tolist()
        values = scores.tolist()
        return Scores([Scored(candidate_item_ids[place], values[place]) for place in order], version)

    def _with_center(
        self, inputs: dict[str, np.ndarray], answer: dict[str, np.ndarray], version: int
    ) -> Talk[tuple[np.ndarray, int]]:
        """Scores, those of items newer than the ranker's snapshot made with the Center's vectors."""
        if "has_vector" not in answer:
            raise ValueError(
                "the served ranker does not say which encoder it was trained on; export it again, or rank without a "
                "Center"
            )
        for _ in range(2):  # a new ranker may take over between the two calls; then both are made once more
            scores, unseen = answer["ctr"], np.flatnonzero(~answer["has_vector"])
            if not len(unseen):
                break
            encoder = answer["encoder_version"][0].decode()
            candidates = inputs["candidate_item_ids"]
            found = yield Lookup([candidates[row].decode() for row in unseen], encoder)
            if found is None or not found.mask.any():
                break
            rows = unseen[found.mask]
            with_vectors = {
                **inputs,
                "candidate_item_ids": candidates[rows],
                "candidate_vectors": np.asarray(found.vectors[found.mask], np.float32),
                "encoder_version": texts([encoder]),
            }
            try:
                own, _ = yield from self.predict(RANKER, "rank_with_vectors", with_vectors)
            except ServerError as error:
                if "must be of encoder" not in str(error):
                    raise
                answer, version = yield from self.predict(RANKER, "rank", inputs)
                continue
            scores = scores.copy()
            scores[rows] = own["ctr"]
            return scores, version
        return answer["ctr"], version

    def similar(self, item_id: str, count: int = 10) -> Talk[Scores]:
        """See `MimClient.similar`."""
        outputs, version = yield from self.predict(
            RETRIEVAL, "similar_items", {"item_id": texts([normalize_id(item_id)])}
        )
        if not np.any(outputs["scores"]):
            raise ServerError(
                f"the index has no vector of item {item_id!r}; is it in the catalogue?", grpc.StatusCode.NOT_FOUND
            )
        return Scores([scored for scored in _scored(outputs) if scored.item_id != item_id][:count], version)

    def nearest(self, embedding: np.ndarray, count: int = 10) -> Talk[Scores]:
        """See `MimClient.nearest`."""
        inputs = {"embedding": np.asarray(embedding, np.float32)[None, :]}
        outputs, version = yield from self.predict(RETRIEVAL, "", inputs)
        return Scores(_scored(outputs)[:count], version)

    def embed_many(
        self, contents: Sequence[tuple[bytes, str, str]], embeddings: Mapping[str, np.ndarray] | None = None
    ) -> Talk[Embeddings]:
        """See `MimClient.embed_many`."""
        from serving.representation_center.images import normalize_image  # late: only pictures need Pillow

        inputs = {
            "image": texts([normalize_image(image) if image else b"" for image, _, _ in contents]),
            "title": texts([title for _, title, _ in contents]),
            "text": texts([text for _, _, text in contents]),
        }
        known = yield from self._known(ENCODER, self._usual(ENCODER))
        for name, tensor in known.inputs.get("serving_default", {}).items():
            if name not in inputs and tensor.shape is not None and len(tensor.shape) == 2:
                inputs[name] = np.zeros((len(contents), tensor.shape[1] or 0), np.float32)
        inputs |= {name: np.asarray(values, np.float32) for name, values in (embeddings or {}).items()}
        answer, version = yield from self.predict(ENCODER, "", inputs)
        return Embeddings(answer["embedding"], answer["encoder_version"][0].decode(), version)

    def status(self, model: str) -> Talk[list[VersionStatus]]:
        """See `MimClient.status`."""
        request = messages.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = yield Call("GetModelStatus", request)
        except ServerError as error:
            if error.code == grpc.StatusCode.NOT_FOUND:
                return []
            raise
        return [
            VersionStatus(
                entry.version,
                messages.STATE_NAMES.get(entry.state, "UNKNOWN"),
                entry.status.error_code,
                entry.status.error_message,
            )
            for entry in response.model_version_status
        ]

    # -- one prediction ------------------------------------------------------------------------------------

    def predict(
        self, model: str, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Talk[tuple[dict[str, np.ndarray], int]]:
        """(outputs, version that answered) of a signature.

        Raises:
            SignatureError: the model does not take such inputs.
            ServerError: the server refused or did not answer.
        """
        choice = self._choose(model)
        try:
            return (yield from self._predict(model, choice, signature, inputs))
        except ServerError as error:
            if not self._may_ask_another(model, choice, error):
                raise
        usual = self._usual(model) if choice == CANARY else None
        try:
            return (yield from self._predict(model, usual, signature, inputs))
        except ServerError as error:
            if usual is None or not self._may_ask_another(model, usual, error):
                raise
        return (yield from self._predict(model, None, signature, inputs))

    def _predict(
        self, model: str, choice: Choice, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Talk[tuple[dict[str, np.ndarray], int]]:
        request = messages.PredictRequest()
        _address(request.model_spec, model, choice)
        request.model_spec.signature_name = signature or "serving_default"
        known = None
        if self.validate:
            known = yield from self._known(model, choice)
            known.check(signature, inputs)
        for name, values in inputs.items():
            to_proto(values, request.inputs[name])
        response = yield Call("Predict", request)
        version = response.model_spec.version.value
        if known is not None and known.version != version:
            self._signatures.pop((model, choice), None)  # another version answers now: it is asked what it takes
        return {name: to_array(values) for name, values in response.outputs.items()}, version

    def _known(self, model: str, choice: Choice) -> Talk[Signatures]:
        known = self._signatures.get((model, choice))
        if known is None:
            request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
            _address(request.model_spec, model, choice)
            response = yield Call("GetModelMetadata", request)
            known = self._signatures[model, choice] = Signatures.of(response)
        return known

    # -- which version -------------------------------------------------------------------------------------

    def _usual(self, model: str) -> Choice:
        return self.versions[model] if model in self.versions else self.labels.get(model)

    def _choose(self, model: str) -> Choice:
        share = self.canaries.get(model, 0.0)
        return CANARY if share and random.random() < share else self._usual(model)

    def _may_ask_another(self, model: str, choice: Choice, error: ServerError) -> bool:
        """Whether the version or label asked for is not there, and another may be asked."""
        unknown_label = error.code == grpc.StatusCode.INVALID_ARGUMENT and "Unrecognized servable version" in str(error)
        if choice is None or not (error.code == grpc.StatusCode.NOT_FOUND or unknown_label):
            return False
        return self.fall_back or (choice == CANARY and model in self.canaries)


def _address(spec: Any, model: str, choice: Choice) -> None:
    spec.name = model
    if isinstance(choice, int):
        spec.version.value = choice
    elif choice is not None:
        spec.version_label = choice


def _feature_text(value: object) -> str | bytes:
    """A feature's value as the tables have it: whole numbers without a fraction, true and false in lower case."""
    if isinstance(value, str | bytes):
        return value
    number = getattr(value, "item", lambda: value)()
    if isinstance(number, bool):
        return str(number).lower()
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def texts(values: Sequence[str | bytes]) -> np.ndarray:
    """An object array of bytes, as TensorFlow takes text."""
    array = np.empty(len(values), object)
    array[:] = [value if isinstance(value, bytes) else value.encode() for value in values]
    return array


def _scored(outputs: Mapping[str, np.ndarray]) -> list[Scored]:
    pairs = zip(outputs["item_ids"][0], outputs["scores"][0].tolist(), strict=True)
    return [Scored(item.decode(), score) for item, score in pairs]
