"""`MimClient` for asyncio: the same questions, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from serving import messages
from serving.channel import ServerError, Tls, open_channel
from serving.client import Metadata, look_up, pause_when_full
from serving.conversation import Call, Conversation, Embeddings, Lookup, Result, Scores, Talk, VersionStatus
from serving.request_log import RequestLog

if TYPE_CHECKING:
    from serving.representation_center.center import RepresentationCenter


class AsyncMimClient:
    """One channel to one server, for one event loop; arguments and errors as `MimClient`'s.

    The Center is read in a thread, so that a slow store does not hold up the loop.

    Example:
        >>> async with AsyncMimClient("localhost:8500") as client:
        ...     first, second = await asyncio.gather(client.rank(...), client.rank(...))
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
        self._channel = open_channel(target, tls, asynchronous=True)
        self._calls = messages.calls(self._channel)

    async def __aenter__(self) -> AsyncMimClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def rank(
        self,
        user_id: str,
        history_item_ids: Sequence[str],
        candidate_item_ids: Sequence[str],
        history_ages: Sequence[int] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Scores:
        """See `MimClient.rank`."""
        return await self._run(self._talk.rank(user_id, history_item_ids, candidate_item_ids, history_ages, context))

    async def similar(self, item_id: str, count: int = 10) -> Scores:
        """See `MimClient.similar`."""
        return await self._run(self._talk.similar(item_id, count))

    async def nearest(self, embedding: np.ndarray, count: int = 10) -> Scores:
        """See `MimClient.nearest`."""
        return await self._run(self._talk.nearest(embedding, count))

    async def embed_many(
        self, contents: Sequence[tuple[bytes, str, str]], embeddings: Mapping[str, np.ndarray] | None = None
    ) -> Embeddings:
        """See `MimClient.embed_many`."""
        return await self._run(self._talk.embed_many(contents, embeddings))

    async def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `MimClient.predict`."""
        return (await self._run(self._talk.predict(model, signature, inputs)))[0]

    async def status(self, model: str) -> list[VersionStatus]:
        """See `MimClient.status`."""
        return await self._run(self._talk.status(model))

    async def _run(self, talk: Talk[Result]) -> Result:
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
                answer = await asyncio.to_thread(look_up, self._center, step)
                continue
            try:
                answer = await self._call(step, deadline)
            except ServerError as error:
                failure = error

    async def _call(self, call: Call, deadline: float) -> Any:
        attempt = 0
        while True:
            metadata = self._metadata() if callable(self._metadata) else self._metadata
            left = max(0.001, deadline - time.monotonic())
            try:
                answer = await self._calls[call.method](call.request, timeout=left, metadata=tuple(metadata))
            except grpc.RpcError as error:
                wait = pause_when_full(error, attempt, deadline)
                if wait is None:
                    raise ServerError.of(error, self._target) from error
                await asyncio.sleep(wait)
                attempt += 1
                continue
            if self._log is not None and call.method == "Predict":
                self._log.offer(call.request)
            return answer
