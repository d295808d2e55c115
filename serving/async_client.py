"""`MimClient` for asyncio: the same questions, awaited."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from serving.channel import ServerError
from serving.client_base import BaseClient
from serving.client_core import (
    CenterLookup,
    Embeddings,
    Flow,
    Pause,
    Result,
    Scores,
    VersionStatus,
    check_content,
    newest_available,
)
from serving.exposure_log import Exposure
from serving.tracing import span

log = logging.getLogger("mim")


class AsyncMimClient(BaseClient):
    """One channel to one server, for one event loop; arguments and errors as `MimClient`'s.

    The Center is read in a thread, so that a slow store does not hold up the loop.

    Example:
        >>> async with AsyncMimClient("localhost:8500") as client:
        ...     first, second = await asyncio.gather(client.rank(...), client.rank(...))
    """

    asynchronous = True

    async def __aenter__(self) -> AsyncMimClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel."""
        if self._center is not None:
            self._center.close()
        await self._channel.close()

    async def rank(
        self,
        user_id: str,
        history_item_ids: Sequence[str],
        candidate_item_ids: Sequence[str],
        history_ages: Sequence[int] | None = None,
        context: Mapping[str, str] | None = None,
        attributes: Mapping[str, Sequence[object]] | None = None,
    ) -> Scores:
        """See `MimClient.rank`."""
        flow = self._core.rank(user_id, history_item_ids, candidate_item_ids, history_ages, context, attributes)
        return await self._run(flow)

    async def similar(self, item_id: str, count: int = 10) -> Scores:
        """See `MimClient.similar`."""
        return await self._run(self._core.similar(item_id, count))

    async def nearest(self, embedding: np.ndarray, count: int = 10) -> Scores:
        """See `MimClient.nearest`."""
        return await self._run(self._core.nearest(embedding, count))

    async def embed_many(
        self, contents: Sequence[tuple[bytes, str, str]], embeddings: Mapping[str, np.ndarray] | None = None
    ) -> Embeddings:
        """See `MimClient.embed_many`."""
        return await self._run(self._core.embed_many(contents, embeddings))

    async def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `MimClient.predict`."""
        return (await self._run(self._core.predict(model, signature, inputs)))[0]

    async def status(self, model: str) -> list[VersionStatus]:
        """See `MimClient.status`."""
        return await self._run(self._core.status(model))

    async def embed(self, image: bytes = b"", title: str = "", text: str = "") -> np.ndarray:
        """See `MimClient.embed`."""
        check_content(image, title, text)
        vector: np.ndarray = (await self.embed_many([(image, title, text)])).vectors[0]
        return vector

    async def version(self, model: str) -> int | None:
        """See `MimClient.version`."""
        return newest_available(await self.status(model))

    async def wait_until_available(
        self, *models: str, seconds: float = 60.0, version: int | None = None
    ) -> dict[str, int]:
        """See `MimClient.wait_until_available`."""
        return await self._run(self._core.wait_until_available(models, seconds, version, self._target), seconds)

    async def _run(self, flow: Flow[Result], seconds: float | None = None) -> Result:
        deadline = time.monotonic() + (self._timeout if seconds is None else seconds)
        with self._question(flow) as answered:
            result = await self._follow(flow, deadline)
            answered(result)
            return result

    async def _follow(self, flow: Flow[Result], deadline: float) -> Result:
        answer: Any = None
        failure: ServerError | None = None
        while True:
            try:
                step = flow.throw(failure) if failure is not None else flow.send(answer)
            except StopIteration as end:
                return end.value
            answer, failure = None, None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Exposure):
                self._log_exposure(step)
            elif isinstance(step, CenterLookup):
                with span(self._tracer, "mim.center") as own:
                    answer = await self._look_up(step, deadline)
                    if own is not None:
                        own.set_attributes({"mim.items": len(step.item_ids), "mim.answered": answer is not None})
            else:
                try:
                    answer = await self._send(step, deadline)
                except grpc.RpcError as error:
                    failure = self._failure(error)
                else:
                    self._log_request(step)

    async def _look_up(self, lookup: CenterLookup, deadline: float) -> Any:
        assert self._center is not None
        future = self._center.start(lookup)
        try:
            if future is None:
                return None
            return await asyncio.wait_for(asyncio.wrap_future(future), self._center_seconds(deadline))
        except TimeoutError:
            log.warning("the Representation Center did not answer in time; ranked without its vectors")
            return None
