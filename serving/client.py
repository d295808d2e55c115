"""Asks a server, TensorFlow Serving or the embedded one: rank, similar, embed.

Needs gRPC, protobuf and NumPy; TensorFlow is neither imported nor installed on the client's machine.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from serving import messages
from serving.channel import ServerError, Tls, open_channel
from serving.conversation import (
    DEFAULT_AGE,
    ENCODER,
    RANKER,
    RETRIEVAL,
    Call,
    Conversation,
    Embeddings,
    Lookup,
    Result,
    Scored,
    Scores,
    Talk,
    VersionStatus,
)
from serving.request_log import RequestLog
from serving.signatures import SignatureError

if TYPE_CHECKING:
    from serving.representation_center.center import RepresentationCenter

__all__ = [
    "DEFAULT_AGE",
    "ENCODER",
    "RANKER",
    "RETRIEVAL",
    "Embeddings",
    "MimClient",
    "RequestLog",
    "Scored",
    "Scores",
    "ServerError",
    "SignatureError",
    "Tls",
    "VersionStatus",
]

log = logging.getLogger("mim")

Metadata = Sequence[tuple[str, str]]
_FULL_TRIES = 3  # of a call that a full batching queue refused
_FULL_WAIT = 0.02  # seconds before the second, doubled and shaken for the third


class MimClient:
    """One channel to one server; keep it as long as you call.  Safe among threads.

    UNAVAILABLE is tried again by the channel, RESOURCE_EXHAUSTED (a full batching queue) after a pause, both within
    the deadline; nothing else is.

    Args:
        target: `host:port`, `dns:///name:port` (calls go round its addresses) or `unix:path`.
        timeout: Seconds a question may take, all its calls and retries together.
        center: Where `rank` finds vectors of items newer than the ranker's snapshot; without it they are ranked
            by their ids alone.
        tls: Certificates; a plain connection without.
        metadata: Sent with every call: pairs, or a function that gives them (for tokens that expire).
        versions: Model → the version to ask; the newest available where not named.
        labels: Model → the label to ask, `stable` say.
        canaries: Model → the share of its questions, 0 to 1, that go to the label `canary` while there is one.
        fall_back: Ask the newest version where the version or label named is gone.
        validate: Check requests against the model's own signatures before they are sent.
        request_log: Where a sample of the requests is kept, for `mim rollout`.

    Example:
        >>> with MimClient("localhost:8500") as client:
        ...     best = client.rank("u1", ["i3", "i17"], ["i950", "i101"])
        ...     best[0].item_id, best.version
    """

    def __init__(
        self,
        target: str = "localhost:8500",
        timeout: float = 2.0,
        center: RepresentationCenter | None = None,
        *,
        tls: Tls | None = None,
        metadata: Metadata | Callable[[], Metadata] = (),
        versions: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        canaries: Mapping[str, float] | None = None,
        fall_back: bool = False,
        validate: bool = True,
        request_log: RequestLog | None = None,
    ) -> None:
        self._target, self._timeout, self._center = target, timeout, center
        self._metadata, self._log = metadata, request_log
        self._talk = Conversation(center is not None, versions or {}, labels or {}, canaries or {}, fall_back, validate)
        self._channel = open_channel(target, tls)
        self._calls = messages.calls(self._channel)

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
    ) -> Scores:
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
            ValueError: no candidate, ages that do not match the history, or (SignatureError) context features that
                the ranker does not take.
            ServerError: the server refused or did not answer.
            CenterError: the Center has no vectors of the version that the ranker was trained on.
        """
        return self._run(self._talk.rank(user_id, history_item_ids, candidate_item_ids, history_ages, context))

    def similar(self, item_id: str, count: int = 10) -> Scores:
        """The items whose content is nearest to an item's, with their cosines, nearest first.

        Raises:
            ServerError: NOT_FOUND for an item that the index has no vector of.
        """
        return self._run(self._talk.similar(item_id, count))

    def nearest(self, embedding: np.ndarray, count: int = 10) -> Scores:
        """The items nearest to a vector of length one, [d]."""
        return self._run(self._talk.nearest(embedding, count))

    def embed(self, image: bytes = b"", title: str = "", text: str = "") -> np.ndarray:
        """The embedding of an item's content, float32 [d] of length one.

        Raises:
            ValueError: neither a picture nor words, or a picture that cannot be read.
        """
        if not (image or title.strip() or text.strip()):
            raise ValueError("embed needs a picture or words; received neither. Give an image, a title or a text")
        vector: np.ndarray = self.embed_many([(image, title, text)]).vectors[0]
        return vector

    def embed_many(
        self, contents: Sequence[tuple[bytes, str, str]], embeddings: Mapping[str, np.ndarray] | None = None
    ) -> Embeddings:
        """Embeddings of contents (image, title, text), with the encoder that made them.

        A picture in any format of `serving.representation_center.images` is normalised as the catalogue's are.

        Args:
            contents: Image, title and text; empty for a missing one.
            embeddings: Ready-made embeddings that the encoder reads, float [len(contents), dim] by name; zeros, which
                are missing ones, where they are not given.

        Raises:
            ValueError: a picture cannot be read.
            ServerError: the server refused or did not answer.
        """
        return self._run(self._talk.embed_many(contents, embeddings))

    def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of any signature of any model.

        Raises:
            SignatureError: the model does not take such inputs.
            ServerError: the server refused or did not answer.
        """
        return self._run(self._talk.predict(model, signature, inputs))[0]

    def status(self, model: str) -> list[VersionStatus]:
        """The versions of a model, newest first; none for a model that the server does not know.

        Raises:
            ServerError: the server cannot be reached.
        """
        return self._run(self._talk.status(model))

    def version(self, model: str) -> int | None:
        """The newest available version of a model, or None.

        Raises:
            ServerError: the server cannot be reached.
        """
        return max((entry.version for entry in self.status(model) if entry.state == "AVAILABLE"), default=None)

    def wait_until_available(self, *models: str, seconds: float = 60.0, version: int | None = None) -> dict[str, int]:
        """Waits for a version of each model and returns them.

        Args:
            models: Their names.
            seconds: At most.
            version: This one, not just any.

        Raises:
            ServerError: DEADLINE_EXCEEDED after `seconds`; the load's own code where it failed for good.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = {model: self._loaded(model, version) for model in models}
            missing = [model for model in models if found[model] is None]
            if not missing:
                return {model: number for model, number in found.items() if number is not None}
            if time.monotonic() > deadline:
                told = f"{', '.join(missing)} not available on {self._target} after {seconds:.0f} s"
                raise ServerError(told, grpc.StatusCode.DEADLINE_EXCEEDED)
            time.sleep(0.1)

    def _loaded(self, model: str, version: int | None) -> int | None:
        """The version that is available, or None for not yet."""
        try:
            entries = [entry for entry in self.status(model) if version in (None, entry.version)]
        except ServerError as error:
            if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            return None
        available = [entry.version for entry in entries if entry.state == "AVAILABLE"]
        if available:
            return max(available)
        if entries and all(entry.state == "END" and entry.code for entry in entries):
            last = entries[0]
            code = next((code for code in grpc.StatusCode if code.value[0] == last.code), grpc.StatusCode.UNKNOWN)
            raise ServerError(f"{model} version {last.version} cannot be loaded: {last.message}", code)
        return None

    # -- travel --------------------------------------------------------------------------------------------

    def _run(self, talk: Talk[Result]) -> Result:
        deadline = time.monotonic() + self._timeout
        answer: Any = None
        failure: ServerError | None = None
        while True:
            try:
                step = talk.throw(failure) if failure is not None else talk.send(answer)
            except StopIteration as end:
                return end.value
            failure = None
            if isinstance(step, Lookup):
                answer = look_up(self._center, step)
                continue
            try:
                answer = self._call(step, deadline)
            except ServerError as error:
                failure = error

    def _call(self, call: Call, deadline: float) -> Any:
        attempt = 0
        while True:
            metadata = self._metadata() if callable(self._metadata) else self._metadata
            left = max(0.001, deadline - time.monotonic())
            try:
                answer = self._calls[call.method](call.request, timeout=left, metadata=tuple(metadata))
            except grpc.RpcError as error:
                wait = pause_when_full(error, attempt, deadline)
                if wait is None:
                    raise ServerError.of(error, self._target) from error
                time.sleep(wait)
                attempt += 1
                continue
            if self._log is not None and call.method == "Predict":
                self._log.offer(call.request)
            return answer


def pause_when_full(error: grpc.RpcError, attempt: int, deadline: float) -> float | None:
    """Seconds to wait before a call is tried again, or None where it is not."""
    if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or attempt + 1 >= _FULL_TRIES:
        return None
    wait = _FULL_WAIT * 2**attempt * random.uniform(0.5, 1.5)
    return wait if time.monotonic() + wait < deadline else None


def look_up(center: RepresentationCenter | None, lookup: Lookup) -> Any:
    """What the Center has of the items; None where it does not answer.

    Raises:
        CenterError: the Center lacks the version.
    """
    from serving.representation_center.center import CenterUnavailable

    assert center is not None
    try:
        return center.get(lookup.item_ids, lookup.encoder_version)
    except CenterUnavailable as error:
        log.warning("%s; %d new items are ranked without their vectors", error, len(lookup.item_ids))
        return None
