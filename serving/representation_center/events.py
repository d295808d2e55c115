"""Where news of items comes from: a folder into which files are dropped, a Redis stream."""

from __future__ import annotations

import base64
import json
import stat
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from serving.representation_center.center import CenterUnavailable
from serving.representation_center.ids import normalize_id
from serving.representation_center.images import normalize_image
from serving.representation_center.records import MAX_ID_BYTES
from serving.representation_center.snapshot import IMAGE, TEXT, content_hash

EVENT_SUFFIXES = (".json", ".jsonl", ".parquet")
READ_TRIES = 5
MAX_JSON_BYTES, MAX_IMAGE_BYTES, MAX_TEXT_BYTES = 96 << 20, 64 << 20, 1 << 20
CONSUMER_IDLE = 60  # times `idle_seconds` after which a consumer without pending messages is deleted


@dataclass(frozen=True)
class Content:
    """What an encoder reads of an item; empty where a modality is missing."""

    image: bytes = b""
    title: str = ""
    text: str = ""

    @property
    def hash(self) -> str:
        """As `snapshot.content_hash`: equal content, equal hash, wherever it was read."""
        return content_hash(self.image, self.title.encode(), self.text.encode())

    @property
    def modalities(self) -> int:
        """1 for a picture, 2 for words, 3 for both, 0 for neither."""
        return IMAGE * bool(self.image) + TEXT * bool((self.title + self.text).strip())


@dataclass(frozen=True)
class ItemEvent:
    """An item is new, or its content changed.

    Attributes:
        item_id: The item.
        content: Its content now; None where the event cannot be read.
        event_time: Seconds since the epoch.
        error: Why the event cannot be read, or empty.
        ack_token: What the source needs to know that it is done.
    """

    item_id: str
    content: Content | None
    event_time: float
    error: str = ""
    ack_token: Any = None


class EventSource(ABC):
    """Gives events at least once: what was taken and not settled comes again after a restart."""

    @abstractmethod
    def poll(self, limit: int) -> list[ItemEvent]:
        """Up to `limit` events that were not taken yet; none where there is nothing new."""

    @abstractmethod
    def ack(self, events: Iterable[ItemEvent]) -> None:
        """Says that these events are done with: stored, or parked."""


@dataclass
class _File:
    path: Path
    events: Iterator[ItemEvent]
    open: int = 0  # taken and not settled
    read: bool = False


class FolderEvents(EventSource):
    """Files dropped into a folder: `.json` (one event, or a list), `.jsonl` or `.parquet`, a row an event.

    Columns: `item_id`; `title`, `text`, `image` (bytes; base64 in JSON) or `image_path` (relative to the folder), and
    `timestamp` (seconds; the file's time where not given), all optional.  Write a file under a name that begins with
    a dot and rename it.  A file whose every event is settled goes to `done/`; one that cannot be read, to `parked/`.

    Args:
        folder: Where files are dropped.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._current: _File | None = None
        self._files: dict[Path, _File] = {}
        self._failures: Counter[Path] = Counter()

    def poll(self, limit: int) -> list[ItemEvent]:
        taken: list[ItemEvent] = []
        while len(taken) < limit:
            if self._current is None:
                self._current = self._next_file()
                if self._current is None:
                    break
            file = self._current
            try:
                event = next(file.events, None)
            except Exception as error:  # whatever a file can hold: the next one must be read
                self._failed(file, error)
                continue
            if event is None:
                file.read, self._current = True, None
                self._finish(file)
            else:
                file.open += 1
                taken.append(event)
        return taken

    def ack(self, events: Iterable[ItemEvent]) -> None:
        for event in events:
            file: _File = event.ack_token
            file.open -= 1
            self._finish(file)

    def _next_file(self) -> _File | None:
        dated = []
        for path in self._paths():
            if path.suffix in EVENT_SUFFIXES and not path.name.startswith((".", "_")) and path not in self._files:
                try:
                    found = path.stat()
                except OSError:  # renamed or removed meanwhile
                    continue
                if stat.S_ISREG(found.st_mode):
                    dated.append((found.st_mtime, path.name, path))
        if not dated:
            return None
        path = min(dated)[2]
        file = _File(path, iter(()))
        file.events = self._read(file)
        self._files[path] = file
        return file

    def _paths(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:  # removed; who drops files will want it again
            self._folder.mkdir(parents=True, exist_ok=True)
            return []

    def _read(self, file: _File) -> Iterator[ItemEvent]:
        dropped = file.path.stat().st_mtime
        if file.path.suffix == ".parquet":
            rows: Iterable[Any] = (
                row for batch in pq.ParquetFile(file.path).iter_batches(1_000) for row in batch.to_pylist()
            )
        elif file.path.suffix == ".jsonl":
            rows = _lines(file.path)
        else:
            if file.path.stat().st_size > MAX_JSON_BYTES:
                raise ValueError(f"a .json file has at most {MAX_JSON_BYTES:,} bytes; write .jsonl or .parquet")
            found = json.loads(file.path.read_bytes())
            rows = found if isinstance(found, list) else [found]
        for number, row in enumerate(rows):
            yield event_of(row, f"{file.path.name}:{number}", dropped, file, self._folder)

    def _finish(self, file: _File) -> None:
        if file.read and not file.open:
            self._move(file, "done")

    def _failed(self, file: _File, error: Exception) -> None:
        """A file that cannot be read may be half written: it is tried again, then parked with its reason."""
        self._failures[file.path] += 1
        self._current = None
        if self._failures[file.path] < READ_TRIES:
            del self._files[file.path]
            time.sleep(0.05)
            return
        target = self._move(file, "parked")
        if target is not None:
            reason = target.with_name(_fitting(target.name, ".reason"))
            reason.write_text(f"{type(error).__name__}: {error}\n", errors="backslashreplace")

    def _move(self, file: _File, where: str) -> Path | None:
        """Moves a file away; None where somebody else did."""
        target = self._folder / where / file.path.name
        if target.parent.exists() and not target.parent.is_dir():  # a file of this name
            target.parent.rename(target.parent.with_name(f"{where}.{time.time_ns()}"))
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target = target.with_name(_fitting(target.stem, f".{time.time_ns()}{target.suffix}"))
        self._files.pop(file.path, None)
        self._failures.pop(file.path, None)
        try:
            file.path.rename(target)
        except FileNotFoundError:
            return None
        return target


class RedisStreamEvents(EventSource):
    """A Redis stream, read by a consumer group: several watchers share the work, and what one that died had taken
    goes to another.

    Fields of a message: `item_id`, `title`, `text`, `image` (bytes).

    Args:
        client: Of the server, e.g. `RedisCenter.client`.
        stream: Its key.
        consumer: A name of this watcher, of its own.
        idle_seconds: After so long without being settled, a message is taken over from its consumer.
    """

    GROUP = "encoder"

    def __init__(self, client: Any, stream: str, consumer: str, idle_seconds: float = 60.0) -> None:
        import redis

        self._redis, self._stream, self._consumer = client, stream, consumer
        self._idle = int(idle_seconds * 1000)
        self._error = redis.exceptions.RedisError
        self._own: set[bytes] = set()
        self._next_claim, self._cursor = 0.0, b"0-0"
        self._response_error = redis.exceptions.ResponseError
        self._make_group()
        self._pending = self._read("0", 10_000)  # what this consumer had taken before it died

    def _make_group(self) -> None:
        try:
            self._redis.xgroup_create(self._stream, self.GROUP, id="0", mkstream=True)
        except self._response_error as error:
            if "BUSYGROUP" not in str(error):
                raise

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise CenterUnavailable(f"the stream {self._stream} cannot be read: {error}") from error

    def poll(self, limit: int) -> list[ItemEvent]:
        with self._translated_errors():
            try:
                return self._poll(limit)
            except self._response_error as error:
                if "NOGROUP" not in str(error):
                    raise
                self._make_group()  # the stream was deleted, and its group with it
                return []

    def _poll(self, limit: int) -> list[ItemEvent]:
        messages, self._pending = self._pending[:limit], self._pending[limit:]
        if not messages and time.monotonic() > self._next_claim:
            self._cursor, claimed, *_ = self._redis.xautoclaim(
                self._stream, self.GROUP, self._consumer, min_idle_time=self._idle, start_id=self._cursor, count=limit
            )
            messages = [m for m in claimed if m[0] not in self._own]
            if self._cursor == b"0-0":  # all of them; else the next call goes on
                self._next_claim = time.monotonic() + self._idle / 1000
                self._delete_idle_consumers()
        if not messages:
            messages = self._read(">", limit)
        self._own |= {message[0] for message in messages}
        return [self._event(number, fields or {}) for number, fields in messages]

    def ack(self, events: Iterable[ItemEvent]) -> None:
        numbers = [event.ack_token for event in events]
        if numbers:
            with self._translated_errors():
                pipe = self._redis.pipeline()
                pipe.xack(self._stream, self.GROUP, *numbers)
                pipe.xdel(self._stream, *numbers)
                pipe.execute()
            self._own -= set(numbers)

    def _delete_idle_consumers(self) -> None:
        """Watchers that are gone, and of whom nothing is pending."""
        for consumer in self._redis.xinfo_consumers(self._stream, self.GROUP):
            gone = consumer["idle"] > CONSUMER_IDLE * self._idle and not consumer["pending"]
            if gone and consumer["name"] != self._consumer.encode():
                self._redis.xgroup_delconsumer(self._stream, self.GROUP, consumer["name"])

    def _read(self, start: str, count: int) -> list[Any]:
        answer = self._redis.xreadgroup(self.GROUP, self._consumer, {self._stream: start}, count=count)
        if isinstance(answer, dict):  # RESP3
            return [message for part in answer.values() for block in part for message in block]
        return answer[0][1] if answer else []

    def _event(self, number: bytes, fields: Mapping[bytes, bytes]) -> ItemEvent:
        happened = int(number.split(b"-")[0]) / 1000
        row: dict[str, Any] = {name.decode("utf-8", "replace"): value for name, value in fields.items()}
        for name in ("item_id", "title", "text"):
            if name in row:
                row[name] = row[name].decode("utf-8", "replace")
        return event_of(row, f"{self._stream}:{number.decode()}", happened, number, None)


@dataclass(frozen=True)
class _Unreadable:
    """A row that cannot be read, and why."""

    reason: str


def _fitting(name: str, end: str) -> str:
    """`name` and `end`, as much of the name as a file's name may hold."""
    limit = 255 - len(end.encode(errors="surrogateescape"))
    return name.encode(errors="surrogateescape")[:limit].decode(errors="ignore") + end


def printable(text: str) -> str:
    """Text that every store and log takes: what is no valid Unicode is escaped."""
    return text.encode(errors="backslashreplace").decode()


class ContentSource(Protocol):
    """Where content of items that were asked for is looked up."""

    def find(self, item_ids: Iterable[str]) -> dict[str, Content]:
        """Content of those of the items that are known."""


def _lines(path: Path) -> Iterator[Mapping[str, Any] | _Unreadable]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield _parsed(line)


def _parsed(line: bytes) -> Mapping[str, Any] | _Unreadable:
    if len(line) > MAX_JSON_BYTES:
        return _Unreadable(f"a line of {len(line):,} bytes; at most {MAX_JSON_BYTES:,} are read")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Unreadable(f"a line that is not JSON ({error})")
    return row if isinstance(row, dict) else _Unreadable("a line that is not a JSON object")


def event_of(row: Any, place: str, dropped: float, ack_token: Any, folder: Path | None) -> ItemEvent:
    """The event in a row; a row that cannot be read becomes an event that says why.

    Args:
        row: Columns as `FolderEvents` names them.
        place: Stands for the item where the row names none.
        dropped: When, where the row does not say.
        ack_token: For the source.
        folder: What `image_path` is relative to.
    """
    name = place = printable(place)
    try:
        if not isinstance(row, Mapping):
            unreadable = isinstance(row, _Unreadable)
            raise ValueError(row.reason if unreadable else "an entry that is not an object of names and values")
        name = _item_id(row.get("item_id"))
        image = _image(row, folder)
        happened = _time(row.get("timestamp"), dropped)
        content = Content(normalize_image(image) if image else b"", _words(row, "title"), _words(row, "text"))
    except Exception as error:  # whatever a row can hold: the next one must be read
        return ItemEvent(name, None, dropped, printable(f"{place}: {error}")[:1_000], ack_token)
    return ItemEvent(name, content, happened, ack_token=ack_token)


def _item_id(value: Any) -> str:
    if value in (None, ""):
        raise ValueError("an event names its item in item_id; this one does not")
    name = normalize_id(value)
    if not 1 <= len(name.encode()) <= MAX_ID_BYTES or "\0" in name:
        raise ValueError(f"an item id has 1 to {MAX_ID_BYTES} bytes and no NUL; received {name[:40]!r}")
    return name


def _words(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"{name} is text; received {type(value).__name__}")
    words = str(value).strip()
    if len(words.encode()) > MAX_TEXT_BYTES:  # also fails for half a surrogate pair, which no model can read
        raise ValueError(f"{name} has at most {MAX_TEXT_BYTES:,} bytes; received {len(words):,} characters")
    return words


def _time(value: Any, dropped: float) -> float:
    """Seconds since the epoch; a future time is clamped to now, or no later event could replace it."""
    if value in (None, "", 0):
        return dropped
    seconds = float(value)
    if not 0 < seconds < 1e11:
        raise ValueError(f"timestamp is in seconds since 1970; received {str(value)[:40]}")
    return min(seconds, time.time())


def _image(row: Mapping[str, Any], folder: Path | None) -> bytes:
    image = row.get("image") or b""
    if isinstance(image, str):
        image = base64.b64decode(image, validate=True)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ValueError(f"image is bytes, or base64 in JSON; received {type(image).__name__}")
    if not image and row.get("image_path"):
        if folder is None:
            raise ValueError("image_path means nothing in a stream; send the picture's bytes as image")
        path = (folder / str(row["image_path"])).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("image_path leads out of the folder of events")
        if not path.is_file():
            raise ValueError("image_path names no regular file")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ValueError(f"a picture has at most {MAX_IMAGE_BYTES:,} bytes; received {path.stat().st_size:,}")
        image = path.read_bytes()
    if len(image) > MAX_IMAGE_BYTES:
        raise ValueError(f"a picture has at most {MAX_IMAGE_BYTES:,} bytes; received {len(image):,}")
    return bytes(image)
