"""Files that each worker writes of what it made itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from apache_beam.io import fileio
from apache_beam.options.value_provider import StaticValueProvider


def write_sharded(
    folder: str, name: str, suffix: str, unfinished: str, sink: Callable[[], fileio.FileSink]
) -> fileio.WriteToFiles:
    """Elements → files `NAME-00000-of-00001SUFFIX` in `folder`, one for each bundle of work.

    Not by Beam's FileBasedSink: that takes a side input, so that on Flink every element would first go through Java.

    Args:
        folder: Of the files.
        name: Their names begin with.
        suffix: Their names end in.
        unfinished: Folder on the same file system for files that are being written; not one that others read.
        sink: Writes one file.
    """
    return fileio.WriteToFiles(
        path=folder,
        file_naming=functools.partial(_file_name, name, suffix),
        temp_directory=StaticValueProvider(str, unfinished),
        sink=sink,
    )


def _file_name(name: str, suffix: str, _window: Any, _pane: Any, shard: int, shards: int, *_: Any) -> str:
    return f"{name}-{shard:05d}-of-{shards:05d}{suffix}"
