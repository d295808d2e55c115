"""Asks a server, TensorFlow Serving or the embedded one: rank, similar, embed.

Needs gRPC, protobuf and NumPy; TensorFlow is neither imported nor installed on the client's machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from serving.channel import ServerError, Tls
from serving.client_base import BaseClient
from serving.client_core import (
    DEFAULT_AGE,
    ENCODER,
    RANKER,
    RETRIEVAL,
    CenterLookup,
    Embeddings,
    Flow,
    Pause,
    Result,
    Scored,
    Scores,
    VersionStatus,
    check_content,
    newest_available,
)
from serving.exposure_log import Exposure, ExposureLog
from serving.request_id import request_id
from serving.request_log import RequestLog
from serving.signatures import SignatureError
from serving.tracing import span

__all__ = [
    "DEFAULT_AGE",
    "ENCODER",
    "RANKER",
    "RETRIEVAL",
    "Embeddings",
    "ExposureLog",
    "MimClient",
    "RequestLog",
    "Scored",
    "Scores",
    "ServerError",
    "SignatureError",
    "Tls",
    "VersionStatus",
    "request_id",
]

log = logging.getLogger("mim")


class MimClient(BaseClient):
    """One channel to one server; keep it as long as you call.  Safe among threads.

    UNAVAILABLE (also: a full batching queue) is tried again by the channel, within
    the deadline; nothing else is.

    Args:
        target: `host:port`, `dns:///name:port` (calls go round its addresses) or `unix:path`.
        timeout: Seconds a question may take, all its calls and retries together.
        center: Where `rank` finds vectors of items newer than the ranker's snapshot; without it they are ranked
            without content.  It is not closed with the client.
        tls: Certificates; a plain connection without.
        metadata: Sent with every call: pairs, or a function that gives them (for tokens that expire).
        versions: Model → the version to ask; the newest available where not named.
        labels: Model → the version label to ask, `stable` say.
        canaries: Model → fraction of its users that are sent to the version label `canary` while there is one, by a
            hash of the user id.  Calls without a user id are drawn at random.
        allow_fallback: Ask the newest version where the version or label named is gone.
        validate: Check requests against the model's own signatures before they are sent.
        request_log: Where a sample of the requests is kept, for `mim rollout`.
        exposure_log: Where each user's version is kept, for models that have a canary.
        tracer_provider: OpenTelemetry's, the extra `otel`: spans of each question, its look into the Center and its
            calls, which carry the trace to the server.

    Example:
        >>> with MimClient("localhost:8500") as client:
        ...     best = client.rank("u1", ["i3", "i17"], ["i950", "i101"])
        ...     best[0].item_id, best.version
    """

    def __enter__(self) -> MimClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel."""
        if self._center is not None:
            self._center.close()
        self._channel.close()

    def rank(
        self,
        user_id: str,
        history_item_ids: Sequence[str],
        candidate_item_ids: Sequence[str],
        history_ages: Sequence[int] | None = None,
        context: Mapping[str, str] | None = None,
        attributes: Mapping[str, Sequence[object]] | None = None,
    ) -> Scores:
        """The candidates with their scores, best first: the ranker's `final_score`, or else the predicted
        click-through rate.

        Candidates that the ranker has no vector of get theirs from the Center, of the very encoder version that
        the ranker was trained on.  Where the Center does not answer, they are ranked without.

        Args:
            user_id: Unknown users are ranked by their history alone.
            history_item_ids: Clicked items, most recent last.
            candidate_item_ids: At least one.
            history_ages: Seconds since each click; an hour each where not given.
            context: A value for each context feature the ranker was trained with.
            attributes: Values of the candidates by attribute, one for each candidate: text, a number, a list of texts,
                or None to keep what the ranker's catalogue has.  For candidates newer than the catalogue, or changed
                since.

        Raises:
            ValueError: no candidate, ages that do not match the history, values that do not match the candidates, or
                (SignatureError) context features or attributes that the ranker does not take.
            ServerError: the server refused or did not answer.
        """
        flow = self._core.rank(user_id, history_item_ids, candidate_item_ids, history_ages, context, attributes)
        return self._run(flow)

    def similar(self, item_id: str, count: int = 10) -> Scores:
        """The items whose content is nearest to an item's, with their cosines, nearest first.

        Raises:
            ServerError: NOT_FOUND for an item that the index has no vector of.
        """
        return self._run(self._core.similar(item_id, count))

    def nearest(self, embedding: np.ndarray, count: int = 10) -> Scores:
        """The items nearest to a vector of length one, [d]."""
        return self._run(self._core.nearest(embedding, count))

    def embed(self, image: bytes = b"", title: str = "", text: str = "") -> np.ndarray:
        """The embedding of an item's content, float32 [d] of length one.

        Raises:
            ValueError: neither a picture nor words, or a picture that cannot be read.
        """
        check_content(image, title, text)
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
        return self._run(self._core.embed_many(contents, embeddings))

    def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of any signature of any model.

        Raises:
            SignatureError: the model does not take such inputs.
            ServerError: the server refused or did not answer.
        """
        return self._run(self._core.predict(model, signature, inputs))[0]

    def status(self, model: str) -> list[VersionStatus]:
        """The versions of a model, newest first; none for a model that the server does not know.

        Raises:
            ServerError: the server cannot be reached.
        """
        return self._run(self._core.status(model))

    def version(self, model: str) -> int | None:
        """The newest available version of a model, or None.

        Raises:
            ServerError: the server cannot be reached.
        """
        return newest_available(self.status(model))

    def wait_until_available(self, *models: str, seconds: float = 60.0, version: int | None = None) -> dict[str, int]:
        """Waits for a version of each model and returns them.

        Args:
            models: Their names.
            seconds: At most.
            version: This one, not just any.

        Raises:
            ServerError: DEADLINE_EXCEEDED after `seconds`; the load's own code where it failed for good.
        """
        return self._run(self._core.wait_until_available(models, seconds, version, self._target), seconds)

    # -- travel --------------------------------------------------------------------------------------------

    def _run(self, flow: Flow[Result], seconds: float | None = None) -> Result:
        deadline = time.monotonic() + (self._timeout if seconds is None else seconds)
        with self._question(flow) as answered:
            result = self._follow(flow, deadline)
            answered(result)
            return result

    def _follow(self, flow: Flow[Result], deadline: float) -> Result:
        answer: Any = None
        failure: ServerError | None = None
        while True:
            try:
                step = flow.throw(failure) if failure is not None else flow.send(answer)
            except StopIteration as end:
                return end.value
            answer, failure = None, None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            elif isinstance(step, Exposure):
                self._log_exposure(step)
            elif isinstance(step, CenterLookup):
                with span(self._tracer, "mim.center") as own:
                    answer = self._look_up(step, deadline)
                    if own is not None:
                        own.set_attributes({"mim.items": len(step.item_ids), "mim.answered": answer is not None})
            else:
                try:
                    answer = self._send(step, deadline)
                except grpc.RpcError as error:
                    failure = self._failure(error)
                else:
                    self._log_request(step)

    def _look_up(self, lookup: CenterLookup, deadline: float) -> Any:
        assert self._center is not None
        future = self._center.start(lookup)
        try:
            return None if future is None else future.result(self._center_seconds(deadline))
        except TimeoutError:
            log.warning("the Representation Center did not answer in time; ranked without its vectors")
            return None
