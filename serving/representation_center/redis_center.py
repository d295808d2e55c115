"""The Center in Redis 7, for many machines.

PREFIX:versions            hash, version → its facts
PREFIX:active, :previous   version
PREFIX:vectors:VERSION     hash, item id → record; to drop a version is to unlink one key
PREFIX:newest              hash, version → when its newest vector was stored
PREFIX:queue               sorted set, item id by the time of its next turn
PREFIX:attempts            hash, item id → turns that it had
PREFIX:leases              sorted set, version by the end of its use
PREFIX:parked              hash, item id → reason

So that nothing is lost in a restart, the server must append to a file (`appendonly yes`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serving.representation_center.center import (
    MAX_ATTEMPTS,
    MAX_QUEUED,
    CenterError,
    CenterUnavailable,
    RepresentationCenter,
    Stats,
    Version,
    VersionMissing,
    retry_seconds,
    to_keys,
)
from serving.representation_center.metrics import process_metrics

TRIES, LONGEST_WAIT = 6, 1.0
WRITE_CHUNK = 2_000
# Each runs as one transaction in the server.
SCRIPTS = {
    # keys: versions, vectors, newest; arguments: version, now, then item id and record by turns
    "put": """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return -1 end
local stored = 0
for at = 3, #ARGV, 2 do
  local there = redis.call('HGET', KEYS[2], ARGV[at])
  if not there or struct.unpack('<d', there, 17) <= struct.unpack('<d', ARGV[at + 1], 17) then
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    stored = stored + 1
  end
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return stored""",
    # key: versions; arguments: version, its facts, new ones
    "replace": """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1""",
    # keys: versions, active, previous; argument: version
    "activate": """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local active = redis.call('GET', KEYS[2])
if active ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1])
  if active then redis.call('SET', KEYS[3], active) end
end
return 1""",
    # keys: active, previous, versions, newest, leases, vectors; argument: version
    "drop": """
if redis.call('GET', KEYS[1]) == ARGV[1] or redis.call('GET', KEYS[2]) == ARGV[1] then return 0 end
if redis.call('HDEL', KEYS[3], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('UNLINK', KEYS[6])
return 1""",
    # key: queue; arguments: now, the most items, then item ids
    "enqueue": """
local added, room = 0, tonumber(ARGV[2]) - redis.call('ZCARD', KEYS[1])
for at = 3, #ARGV do
  if added >= room then break end
  added = added + redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[at])
end
return added""",
    # keys: queue, attempts; arguments: now, how many, then the wait after each attempt
    "claim": """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, item in ipairs(due) do
  local attempts = redis.call('HINCRBY', KEYS[2], item, 1)
  if ARGV[2 + attempts] then
    redis.call('ZADD', KEYS[1], tonumber(ARGV[1]) + tonumber(ARGV[2 + attempts]), item)
  else
    redis.call('ZREM', KEYS[1], item)
    redis.call('HDEL', KEYS[2], item)
  end
end
return due""",
}


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

    def __init__(self, url: str, prefix: str = "mim", timeout: float = 2.0) -> None:
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
        self._url = re.sub(r"//[^@/]*@", "//…@", url)  # errors and logs show no password
        self._prefix = prefix
        self._scripts = {name: self._redis.register_script(text) for name, text in SCRIPTS.items()}
        self.metrics = process_metrics()
        super().__init__()
        self._last: tuple[bytes, Version, bytes] | None = None  # the version that was active at the last look
        with self._translated():
            self._redis.ping()

    def _close(self) -> None:
        self._redis.close()

    @property
    def client(self) -> Any:
        """The connection, for who reads a stream of the same server."""
        return self._redis

    # -- versions ------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, Version]:
        with self._translated():
            found = [Version(**json.loads(value)) for value in self._redis.hvals(self._name("versions"))]
        return {version.name: version for version in sorted(found, key=lambda version: version.created_at)}

    def active(self) -> tuple[str | None, str | None]:
        with self._translated():
            active, previous = self._redis.mget(self._name("active"), self._name("previous"))
        return active and active.decode(), previous and previous.decode()

    def stats(self) -> Stats:
        versions, (active, previous) = self.versions(), self.active()
        with self._translated():
            pipe = self._redis.pipeline(transaction=False)
            for name in versions:
                pipe.hlen(self._vectors(name))
            pipe.hget(self._name("newest"), active or "")
            pipe.zcard(self._name("queue"))
            pipe.hlen(self._name("parked"))
            *counts, newest, queued, parked = pipe.execute()
        of_version = dict(zip(versions, counts, strict=True))
        return Stats(active, previous, of_version, versions, float(newest) if newest else None, queued, parked)

    def _insert_version(self, version: Version) -> Version:
        with self._translated():
            pipe = self._redis.pipeline()
            pipe.hsetnx(self._name("versions"), version.name, json.dumps(version.to_mapping()))
            pipe.hget(self._name("versions"), version.name)
            _, value = pipe.execute()
        return Version(**json.loads(value))

    def _set_ready(self, name: str) -> bool:
        while True:
            with self._translated():
                value = self._redis.hget(self._name("versions"), name)
                if value is None:
                    return False
                ready = json.dumps(json.loads(value) | {"ready": True})
                if self._scripts["replace"](keys=[self._name("versions")], args=[name, value, ready]):
                    return True

    def _activate(self, name: str) -> bool:
        with self._translated():
            keys = [self._name(what) for what in ("versions", "active", "previous")]
            return bool(self._scripts["activate"](keys=keys, args=[name]))

    def _drop(self, name: str) -> bool:
        names = ("active", "previous", "versions", "newest", "leases")
        with self._translated():
            keys = [*map(self._name, names), self._vectors(name)]
            return bool(self._scripts["drop"](keys=keys, args=[name]))

    def lease(self, version: str, seconds: float) -> None:
        with self._translated():
            self._redis.zadd(self._name("leases"), {version: time.time() + seconds})

    def leased(self) -> set[str]:
        with self._translated():
            return {name.decode() for name in self._redis.zrangebyscore(self._name("leases"), time.time(), "+inf")}

    # -- vectors -------------------------------------------------------------------------------------------

    def _read(self, keys: Sequence[bytes], version: str | None) -> tuple[Version, list[bytes | None]]:
        if version is not None:
            return self._read_named(version, keys)
        if self._last is not None:  # one round trip, right unless another version was promoted meanwhile
            name, wanted, facts = self._last
            with self._translated():
                pipe = self._redis.pipeline()
                pipe.get(self._name("active"))
                pipe.hget(self._name("versions"), wanted.name)
                pipe.hmget(self._vectors(wanted.name), keys) if keys else pipe.ping()
                active, now, records = pipe.execute()
            if active == name and now == facts:
                return wanted, records if keys else []
        current, _ = self.active()
        if current is None:
            raise VersionMissing("no version is active yet; load a snapshot, then promote its version")
        wanted, found = self._read_named(current, keys)
        self._last = (current.encode(), wanted, json.dumps(wanted.to_mapping()).encode())
        return wanted, found

    def _read_named(self, version: str, keys: Sequence[bytes]) -> tuple[Version, list[bytes | None]]:
        """The version's facts and its records, as they are at one moment."""
        with self._translated():
            pipe = self._redis.pipeline()
            pipe.hget(self._name("versions"), version)
            pipe.hmget(self._vectors(version), keys) if keys else pipe.ping()
            facts, records = pipe.execute()
        if facts is None:
            return self.version(version), []  # raises, and lists what there is
        return Version(**json.loads(facts)), records if keys else []

    def _write_newer(self, version: Version, keys: Sequence[bytes], records: Sequence[bytes]) -> int:
        stored = 0
        names = [self._name("versions"), self._vectors(version.name), self._name("newest")]
        for start in range(0, len(keys), WRITE_CHUNK):
            rows = slice(start, start + WRITE_CHUNK)
            pairs = [part for pair in zip(keys[rows], records[rows], strict=True) for part in pair]
            with self._translated():
                written = self._scripts["put"](keys=names, args=[version.name, repr(time.time()), *pairs])
            if written < 0:
                raise VersionMissing(f"version {version.name} was dropped while it was written; load it again")
            stored += int(written)
        return stored

    # -- the queue -----------------------------------------------------------------------------------------

    def enqueue(self, item_ids: Iterable[str]) -> int:
        names = to_keys(list(dict.fromkeys(item_ids)))
        added = 0
        for start in range(0, len(names), WRITE_CHUNK):
            part = names[start : start + WRITE_CHUNK]
            with self._translated():
                keys: list[Any] = [self._name("queue")]
                arguments: list[Any] = [repr(time.time()), MAX_QUEUED, *part]
                added += int(self._scripts["enqueue"](keys=keys, args=arguments))
        return added

    def claim(self, limit: int, now: float | None = None) -> list[str]:
        now = time.time() if now is None else now
        waits = [retry_seconds(attempts) for attempts in range(1, MAX_ATTEMPTS)]
        with self._translated():
            keys = [self._name("queue"), self._name("attempts")]
            found = self._scripts["claim"](keys=keys, args=[repr(now), limit, *map(repr, waits)])
        return [key.decode() for key in found]

    def queued(self, limit: int) -> list[str]:
        with self._translated():
            return [key.decode() for key in self._redis.zrange(self._name("queue"), 0, limit - 1)]

    def dequeue(self, item_ids: Iterable[str]) -> None:
        names = list(item_ids)
        with self._translated():
            for start in range(0, len(names), WRITE_CHUNK):
                part = names[start : start + WRITE_CHUNK]
                pipe = self._redis.pipeline()
                pipe.zrem(self._name("queue"), *part)
                pipe.hdel(self._name("attempts"), *part)
                pipe.execute()

    def park(self, item_id: str, reason: str) -> None:
        to_keys([item_id])
        with self._translated():
            pipe = self._redis.pipeline()
            pipe.hset(self._name("parked"), item_id, reason)
            pipe.zrem(self._name("queue"), item_id)
            pipe.hdel(self._name("attempts"), item_id)
            pipe.execute()

    def parked(self) -> dict[str, str]:
        with self._translated():
            found = self._redis.hgetall(self._name("parked"))
        return {key.decode(): value.decode() for key, value in found.items()}

    def _name(self, what: str) -> str:
        return f"{self._prefix}:{what}"

    def _vectors(self, version: str) -> str:
        return f"{self._prefix}:vectors:{version}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns Redis' errors into the Center's."""
        try:
            yield
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            raise CenterUnavailable(f"the Center at {self._url} does not answer: {error}") from error
        except self._errors.RedisError as error:
            raise CenterError(f"the Center at {self._url} refused: {error}") from error
