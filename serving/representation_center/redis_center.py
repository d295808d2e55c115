"""The Center in Redis 7, for many machines.

PREFIX:versions            hash, version → its facts
PREFIX:active, :previous   version
PREFIX:vectors:VERSION     hash, item id → record; to drop a version is to unlink one key
PREFIX:newest              hash, version → when its newest vector was stored
PREFIX:queue               sorted set, item id by the time it was first asked for
PREFIX:parked              hash, item id → reason

So that nothing is lost in a restart, the server must append to a file (`appendonly yes`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serving.representation_center.center import (
    CenterError,
    CenterUnavailable,
    RepresentationCenter,
    Stats,
    Version,
)
from serving.representation_center.metrics import process_metrics

TRIES, LONGEST_WAIT = 6, 1.0
WRITE_CHUNK = 5_000


class RedisCenter(RepresentationCenter):
    """A Center in a Redis server.

    Args:
        url: `redis://HOST:PORT/DB`, `rediss://…` with TLS, or `unix://PATH`.
        prefix: Of every key.
        timeout: Seconds an answer may take.

    Raises:
        CenterError: the extra `redis` is not installed.
        CenterUnavailable: no server answers.
    """

    def __init__(self, url: str, prefix: str = "mim", timeout: float = 5.0) -> None:
        try:
            import redis
            from redis.backoff import ExponentialBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise CenterError(
                "a Center in Redis needs the extra `redis`: pip install 'mim-tensorflow[redis]'"
            ) from error
        self._errors = redis.exceptions
        passing = [redis.exceptions.ConnectionError, redis.exceptions.TimeoutError]
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(ExponentialBackoff(cap=LONGEST_WAIT, base=0.02), TRIES),
            retry_on_error=[*passing, redis.exceptions.BusyLoadingError],
        )
        self._url, self._prefix = url, prefix
        self.metrics = process_metrics()
        self._last: tuple[bytes, Version] | None = None  # the version that was active at the last look
        with self._told():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    @property
    def client(self) -> Any:
        """The connection, for who reads a stream of the same server."""
        return self._redis

    # -- versions ------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, Version]:
        with self._told():
            found = [Version(**json.loads(value)) for value in self._redis.hvals(self._name("versions"))]
        return {version.name: version for version in sorted(found, key=lambda version: version.created_at)}

    def active(self) -> tuple[str | None, str | None]:
        with self._told():
            active, previous = self._redis.mget(self._name("active"), self._name("previous"))
        return active and active.decode(), previous and previous.decode()

    def stats(self) -> Stats:
        versions, (active, previous) = self.versions(), self.active()
        with self._told():
            pipe = self._redis.pipeline(transaction=False)
            for name in versions:
                pipe.hlen(self._vectors(name))
            pipe.hget(self._name("newest"), active or "")
            pipe.zcard(self._name("queue"))
            pipe.hlen(self._name("parked"))
            *counts, newest, queued, parked = pipe.execute()
        of_version = dict(zip(versions, counts, strict=True))
        return Stats(active, previous, of_version, versions, float(newest) if newest else None, queued, parked)

    def _save_version(self, version: Version) -> None:
        with self._told():
            self._redis.hset(self._name("versions"), version.name, json.dumps(version.to_mapping()))

    def _activate(self, name: str, previous: str | None) -> None:
        pointers = {self._name("active"): name}
        if previous is not None:
            pointers[self._name("previous")] = previous
        with self._told():
            self._redis.mset(pointers)  # one command: all of it or nothing

    def _drop(self, name: str) -> None:
        with self._told():
            pipe = self._redis.pipeline()
            pipe.hdel(self._name("versions"), name)
            pipe.hdel(self._name("newest"), name)
            pipe.unlink(self._vectors(name))
            pipe.execute()

    # -- vectors -------------------------------------------------------------------------------------------

    def _read(self, keys: Sequence[bytes], version: str | None) -> tuple[Version, list[bytes | None]]:
        if version is not None:
            return self.version(version), self._records(version, keys)
        if self._last is not None:  # one round trip, right unless another version was promoted meanwhile
            name, wanted = self._last
            with self._told():
                pipe = self._redis.pipeline()
                pipe.get(self._name("active"))
                pipe.hmget(self._vectors(wanted.name), keys) if keys else pipe.ping()
                active, records = pipe.execute()
            if active == name:
                return wanted, records if keys else []
        current, _ = self.active()
        if current is None:
            raise CenterError("no version is active yet; load a snapshot, then promote its version")
        self._last = (current.encode(), self.version(current))
        return self._last[1], self._records(current, keys)

    def _records(self, version: str, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._told():
            records: list[bytes | None] = self._redis.hmget(self._vectors(version), keys)
        return records

    def _write(self, version: Version, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        for start in range(0, len(keys), WRITE_CHUNK):
            rows = slice(start, start + WRITE_CHUNK)
            with self._told():
                pipe = self._redis.pipeline()
                pipe.hset(self._vectors(version.name), mapping=dict(zip(keys[rows], records[rows], strict=True)))
                pipe.hset(self._name("newest"), version.name, repr(time.time()))
                pipe.execute()

    # -- the queue -----------------------------------------------------------------------------------------

    def enqueue(self, item_ids: Iterable[str]) -> int:
        now = time.time()
        scores = dict.fromkeys(item_ids, now)
        with self._told():
            return int(self._redis.zadd(self._name("queue"), scores, nx=True)) if scores else 0

    def queued(self, limit: int) -> list[str]:
        with self._told():
            return [key.decode() for key in self._redis.zrange(self._name("queue"), 0, limit - 1)]

    def dequeue(self, item_ids: Iterable[str]) -> None:
        names = list(item_ids)
        with self._told():
            for start in range(0, len(names), WRITE_CHUNK):
                self._redis.zrem(self._name("queue"), *names[start : start + WRITE_CHUNK])

    def park(self, item_id: str, reason: str) -> None:
        with self._told():
            pipe = self._redis.pipeline()
            pipe.hset(self._name("parked"), item_id, reason)
            pipe.zrem(self._name("queue"), item_id)
            pipe.execute()

    def parked(self) -> dict[str, str]:
        with self._told():
            found = self._redis.hgetall(self._name("parked"))
        return {key.decode(): value.decode() for key, value in found.items()}

    def _name(self, what: str) -> str:
        return f"{self._prefix}:{what}"

    def _vectors(self, version: str) -> str:
        return f"{self._prefix}:vectors:{version}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns Redis' errors into the Center's."""
        try:
            yield
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            raise CenterUnavailable(f"the Center at {self._url} does not answer: {error}") from error
        except self._errors.RedisError as error:
            raise CenterError(f"the Center at {self._url} refused: {error}") from error
