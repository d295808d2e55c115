"""What a client says to a server and makes of its answers, without saying how it travels.

Each question is a generator: it yields calls, is sent their answers, and returns its result.  `MimClient` runs it
with blocking calls, `AsyncMimClient` with asyncio: the logic is here, once.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np

from serving import messages
from serving.channel import ServerError
from serving.exposure_log import Exposure
from serving.representation_center.ids import normalize_id
from serving.signatures import SignatureError, Signatures
from serving.tensors import to_array, to_proto

log = logging.getLogger("mim")

ENCODER, RANKER, RETRIEVAL = "mim_encoder", "mim_ranker", "mim_retrieval"
CANARY = "canary"
DEFAULT_AGE = 3600  # seconds, for a history that comes without ages

Result = TypeVar("Result")
ATTRIBUTE = "candidate_"  # begins the names of the inputs that describe candidates
WITH_ATTRIBUTES = ("rank_with_attributes", "rank_with_vectors")
OWN = ("candidate_item_ids", "candidate_vectors")  # of them, those that are no attribute's
ABOUT = ("has_vector", "encoder_version")  # outputs of a ranker that are no scores
VersionSelector = int | str | None  # a version, a label, or the newest


@dataclass(frozen=True)
class RpcCall:
    """One call: the method's name and its request."""

    method: str
    request: Any


@dataclass(frozen=True)
class CenterLookup:
    """A look into the Representation Center; answered with its `Found`, or None where it does not answer."""

    item_ids: list[str]
    encoder_version: str


@dataclass(frozen=True)
class Pause:
    """A wait before the next call."""

    seconds: float


Flow = Generator[RpcCall | CenterLookup | Exposure | Pause, Any, Result]


class Scored(NamedTuple):
    """An item and its score: the predicted click-through rate, the final score of a ranker that has one, or a cosine.

    Attributes:
        item_id: The item.
        score: What items are ordered by.
        outputs: Of a ranker of several outputs, each of them: `ctr`, `ordered`, …
    """

    item_id: str
    score: float
    outputs: Mapping[str, float] = MappingProxyType({})


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


class Answer(NamedTuple):
    """Outputs of a signature, the version that answered, and the version or label that was asked."""

    outputs: dict[str, np.ndarray]
    version: int
    selector: VersionSelector


@dataclass
class ClientCore:
    """Questions to the models of one server.

    Attributes:
        has_center: Whether `CenterLookup`s are answered.
        versions: Model → the version to ask; the newest available where not named.
        labels: Model → the label to ask, `stable` say; a model has a version or a label, not both.
        canaries: Model → the share of its users, 0 to 1, whose calls ask the label `canary` instead, as long as the
            server has that label.
        allow_fallback: Ask the newest version where the version or label named is gone.
        validate: Check requests against the model's own signatures first.
    """

    has_center: bool = False
    versions: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    canaries: Mapping[str, float] = field(default_factory=dict)
    allow_fallback: bool = False
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
        attributes: Mapping[str, Sequence[object]] | None = None,
    ) -> Flow[Scores]:
        """See `MimClient.rank`."""
        if not candidate_item_ids:
            raise ValueError("rank needs at least one candidate; received none. Name the items to be ranked")
        ages = list(history_ages) if history_ages is not None else [DEFAULT_AGE] * len(history_item_ids)
        if len(ages) != len(history_item_ids):
            raise ValueError(
                f"each item of the history needs an age; received {len(ages)} ages for {len(history_item_ids)} items"
            )
        user_id = normalize_id(user_id)
        inputs = {
            "user_id": to_bytes_array([user_id]),
            "history_item_ids": to_bytes_array([normalize_id(one) for one in history_item_ids]),
            "history_ages": np.array(ages, np.int64),
            "candidate_item_ids": to_bytes_array([normalize_id(one) for one in candidate_item_ids]),
            **{name: to_bytes_array([_feature_text(value)]) for name, value in (context or {}).items()},
        }
        if attributes:
            count = len(candidate_item_ids)
            inputs |= {ATTRIBUTE + name: _attribute_texts(name, own, count) for name, own in attributes.items()}
        signature = "rank_with_attributes" if attributes else "rank"
        selector = self._select(RANKER, user_id)
        answer = yield from self._ask(RANKER, selector, signature, inputs)
        if self.has_center:
            answer = yield from self._with_center(signature, inputs, answer, selector)
        if share := self.canaries.get(RANKER, 0.0):
            group = "canary" if selector == CANARY else "control"
            label = answer.selector if isinstance(answer.selector, str) else None
            yield Exposure(user_id, RANKER, share, group, label, answer.version)
        version = answer.version
        scores = answer.outputs.get("final_score", answer.outputs["ctr"])
        order = np.argsort(-scores, kind="stable").tolist()
        values = scores.tolist()
        if len(outputs := {name: found.tolist() for name, found in answer.outputs.items() if name not in ABOUT}) == 1:
            return Scores([Scored(candidate_item_ids[row], values[row]) for row in order], version)
        rows = [{name: found[row] for name, found in outputs.items()} for row in range(len(values))]
        return Scores([Scored(candidate_item_ids[row], values[row], rows[row]) for row in order], version)

    def _with_center(
        self, signature: str, inputs: dict[str, np.ndarray], answer: Answer, selector: VersionSelector
    ) -> Flow[Answer]:
        """The answer, with scores of items newer than the ranker's snapshot made with the Center's vectors."""
        if "has_vector" not in answer.outputs:
            raise ValueError(
                "the served ranker does not say which encoder it was trained on; export it again, or rank without a "
                "Center"
            )
        for _ in range(2):  # a new ranker may take over between the two calls; then both are made once more
            unseen = np.flatnonzero(~answer.outputs["has_vector"])
            if not len(unseen):
                break
            encoder = answer.outputs["encoder_version"][0].decode()
            candidates = inputs["candidate_item_ids"]
            found = yield CenterLookup([candidates[row].decode() for row in unseen], encoder)
            if found is None or not found.mask.any():
                break
            rows = unseen[found.mask]
            with_vectors = {
                **inputs,
                **{name: values[rows] for name, values in inputs.items() if name.startswith(ATTRIBUTE)},
                "candidate_vectors": np.asarray(found.vectors[found.mask], np.float32),
                "encoder_version": to_bytes_array([encoder]),
            }
            own = None
            try:
                own = yield from self._ask(RANKER, selector, "rank_with_vectors", with_vectors)
            except (ServerError, SignatureError) as error:
                if "must be of encoder" not in str(error):
                    log.warning("%s; %d new items are ranked without their vectors", error, len(rows))
                    break
            if own is None or own.version != answer.version:  # another ranker took over; scores of two are not mixed
                answer = yield from self._ask(RANKER, selector, signature, inputs)
                continue
            outputs = {name: values.copy() for name, values in answer.outputs.items()}
            for name in set(outputs) - set(ABOUT):
                outputs[name][rows] = own.outputs[name]
            return answer._replace(outputs=outputs)
        return answer

    def similar(self, item_id: str, count: int = 10) -> Flow[Scores]:
        """See `MimClient.similar`."""
        outputs, version = yield from self.predict(
            RETRIEVAL, "similar_items", {"item_id": to_bytes_array([normalize_id(item_id)])}
        )
        if not np.any(outputs["scores"]):
            raise ServerError(
                f"the index has no vector of item {item_id!r}; is it in the catalogue?", grpc.StatusCode.NOT_FOUND
            )
        return Scores([scored for scored in _scored(outputs) if scored.item_id != item_id][:count], version)

    def nearest(self, embedding: np.ndarray, count: int = 10) -> Flow[Scores]:
        """See `MimClient.nearest`."""
        inputs = {"embedding": np.asarray(embedding, np.float32)[None, :]}
        outputs, version = yield from self.predict(RETRIEVAL, "", inputs)
        return Scores(_scored(outputs)[:count], version)

    def embed_many(
        self, contents: Sequence[tuple[bytes, str, str]], embeddings: Mapping[str, np.ndarray] | None = None
    ) -> Flow[Embeddings]:
        """See `MimClient.embed_many`."""
        from serving.representation_center.images import normalize_image  # late: only pictures need Pillow

        inputs = {
            "image": to_bytes_array([normalize_image(image) if image else b"" for image, _, _ in contents]),
            "title": to_bytes_array([title for _, title, _ in contents]),
            "text": to_bytes_array([text for _, _, text in contents]),
        }
        known = yield from self._known(ENCODER, self._default_selector(ENCODER))
        for name, tensor in known.inputs.get("serving_default", {}).items():
            if name not in inputs and tensor.shape is not None and len(tensor.shape) == 2:
                inputs[name] = np.zeros((len(contents), tensor.shape[1] or 0), np.float32)
        inputs |= {name: np.asarray(values, np.float32) for name, values in (embeddings or {}).items()}
        answer, version = yield from self.predict(ENCODER, "", inputs)
        return Embeddings(answer["embedding"], answer["encoder_version"][0].decode(), version)

    def status(self, model: str) -> Flow[list[VersionStatus]]:
        """See `MimClient.status`."""
        request = messages.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = yield RpcCall("GetModelStatus", request)
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

    def wait_until_available(
        self, models: Sequence[str], seconds: float, version: int | None, target: str
    ) -> Flow[dict[str, int]]:
        """See `MimClient.wait_until_available`."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, int] = {}
            for model in models:
                if (number := (yield from self._loaded(model, version))) is not None:
                    found[model] = number
            missing = [model for model in models if model not in found]
            if not missing:
                return found
            if time.monotonic() > deadline:
                message = f"{', '.join(missing)} not available on {target} after {seconds:.0f} s"
                raise ServerError(message, grpc.StatusCode.DEADLINE_EXCEEDED)
            yield Pause(0.1)

    def _loaded(self, model: str, version: int | None) -> Flow[int | None]:
        """The version that is available, or None for not yet."""
        try:
            entries = yield from self.status(model)
        except ServerError as error:
            if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            return None
        entries = [entry for entry in entries if version in (None, entry.version)]
        if (newest := newest_available(entries)) is not None:
            return newest
        if entries and all(entry.state == "END" and entry.code for entry in entries):
            last = entries[0]
            code = next((code for code in grpc.StatusCode if code.value[0] == last.code), grpc.StatusCode.UNKNOWN)
            raise ServerError(f"{model} version {last.version} cannot be loaded: {last.message}", code)
        return None

    # -- one prediction ------------------------------------------------------------------------------------

    def predict(
        self, model: str, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Flow[tuple[dict[str, np.ndarray], int]]:
        """(outputs, version that answered) of a signature.

        Raises:
            SignatureError: the model does not take such inputs.
            ServerError: the server refused or did not answer.
        """
        answer = yield from self._ask(model, self._select(model), signature, inputs)
        return answer.outputs, answer.version

    def _ask(
        self, model: str, selector: VersionSelector, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Flow[Answer]:
        """The answer of the version or label selected, or of another where that is gone and another may answer."""
        try:
            return (yield from self._predict(model, selector, signature, inputs))
        except ServerError as error:
            if not self._can_fall_back(model, selector, error):
                raise
        default = self._default_selector(model) if selector == CANARY else None
        try:
            return (yield from self._predict(model, default, signature, inputs))
        except ServerError as error:
            if default is None or not self._can_fall_back(model, default, error):
                raise
        return (yield from self._predict(model, None, signature, inputs))

    def _predict(
        self, model: str, selector: VersionSelector, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Flow[Answer]:
        request = messages.PredictRequest()
        _address(request.model_spec, model, selector)
        request.model_spec.signature_name = signature or "serving_default"
        known = None
        if self.validate or signature in WITH_ATTRIBUTES:
            known = yield from self._known(model, selector)
            try:
                inputs = self._checked(known, signature, inputs)
            except SignatureError:  # another version may answer by now, which takes other inputs
                self._signatures.pop((model, selector), None)
                known = yield from self._known(model, selector)
                inputs = self._checked(known, signature, inputs)
        for name, values in inputs.items():
            to_proto(values, request.inputs[name])
        response = yield RpcCall("Predict", request)
        version = response.model_spec.version.value
        if known is not None and known.version != version:
            self._signatures.pop((model, selector), None)  # another version answers now; its signatures are fetched
        return Answer({name: to_array(values) for name, values in response.outputs.items()}, version, selector)

    def _checked(self, known: Signatures, signature: str, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The inputs, with the empty text, which keeps the ranker's own, for attributes that are not given."""
        if signature in WITH_ATTRIBUTES and "candidate_item_ids" in inputs:
            names = [name for name in known.inputs.get(signature, {}) if name.startswith(ATTRIBUTE) and name not in OWN]
            inputs = {**dict.fromkeys(names, to_bytes_array([""] * len(inputs["candidate_item_ids"]))), **inputs}
        if self.validate:
            known.check(signature, inputs)
        return inputs

    def _known(self, model: str, selector: VersionSelector) -> Flow[Signatures]:
        known = self._signatures.get((model, selector))
        if known is None:
            request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
            _address(request.model_spec, model, selector)
            response = yield RpcCall("GetModelMetadata", request)
            known = self._signatures[model, selector] = Signatures.of(response)
        return known

    # -- which version -------------------------------------------------------------------------------------

    def _default_selector(self, model: str) -> VersionSelector:
        return self.versions[model] if model in self.versions else self.labels.get(model)

    def _select(self, model: str, user: str = "") -> VersionSelector:
        """The canary for a share of the users, always the same ones; of calls without a user, for a share of these."""
        share = self.canaries.get(model, 0.0)
        if not share:
            return self._default_selector(model)
        drawn = user_fraction(model, user) if user else random.random()
        return CANARY if drawn < share else self._default_selector(model)

    def _can_fall_back(self, model: str, selector: VersionSelector, error: ServerError) -> bool:
        """Whether the version or label asked for is not there, and another may be asked."""
        unknown_label = error.code == grpc.StatusCode.INVALID_ARGUMENT and "Unrecognized servable version" in str(error)
        if selector is None or not (error.code == grpc.StatusCode.NOT_FOUND or unknown_label):
            return False
        return self.allow_fallback or (selector == CANARY and model in self.canaries)


def user_fraction(model: str, user: str) -> float:
    """Where a user stands between 0 and 1 for the canaries of a model; the same in every client.

    Example:
        >>> from serving.client_core import user_fraction
        >>> user_fraction("mim_ranker", "u1") == user_fraction("mim_ranker", "u1")
        True
    """
    digest = hashlib.blake2b(f"{model}\0{user}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def newest_available(entries: Sequence[VersionStatus]) -> int | None:
    """The newest version that answers, or None."""
    return max((entry.version for entry in entries if entry.state == "AVAILABLE"), default=None)


def check_content(image: bytes, title: str, text: str) -> None:
    """Raises `ValueError` for a content of nothing."""
    if not (image or title.strip() or text.strip()):
        raise ValueError("embed needs a picture or words; received neither. Give an image, a title or a text")


def _address(spec: Any, model: str, selector: VersionSelector) -> None:
    spec.name = model
    if isinstance(selector, int):
        spec.version.value = selector
    elif selector is not None:
        spec.version_label = selector


def _feature_text(value: object) -> str | bytes:
    """A feature's value as the tables have it: whole numbers without a fraction, true and false in lower case, nothing
    for None and NaN."""
    if isinstance(value, str | bytes):
        return value
    number = getattr(value, "item", lambda: value)()
    if number is None or number != number:
        return ""
    if isinstance(number, bool):
        return str(number).lower()
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _attribute_texts(name: str, values: Sequence[object], count: int) -> np.ndarray:
    """The values of an attribute as the tables have them: those of a list divided by `|`, none as the empty text."""
    if isinstance(values, str | bytes) or len(values) != count:
        received = "one text" if isinstance(values, str | bytes) else f"{len(values)} values"
        raise ValueError(
            f"attribute {name} needs a value for each of the {count} candidates; received {received}. Give a "
            "list, with None for what is not known"
        )
    return to_bytes_array([_attribute_text(value) for value in values])


def _attribute_text(value: object) -> str | bytes:
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | np.ndarray):
        texts = (_feature_text(one) for one in value)
        return "|".join(text.decode() if isinstance(text, bytes) else text for text in texts if text)
    return _feature_text(value)


def to_bytes_array(values: Sequence[str | bytes]) -> np.ndarray:
    """An object array of bytes, as TensorFlow takes text."""
    array = np.empty(len(values), object)
    array[:] = [value if isinstance(value, bytes) else value.encode() for value in values]
    return array


def _scored(outputs: Mapping[str, np.ndarray]) -> list[Scored]:
    pairs = zip(outputs["item_ids"][0], outputs["scores"][0].tolist(), strict=True)
    return [Scored(item.decode(), score) for item, score in pairs]
