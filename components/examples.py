"""tf.Examples in and out of Beam, a batch of columns at a time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from tfx.types import Artifact, artifact_utils
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder, RecordBatchToExamplesEncoder

from components.columns import Columns, hash_buckets, take
from components.records import ReadRecords, WriteRecords, read_file

SPLITS = ("train", "valid", "test")
DECODE_ROWS = 4_096
UNFINISHED = ".unfinished"
BUCKET_BYTES = 16 << 20  # of files, which are compressed


def to_examples(columns: Columns) -> list[bytes]:
    """Serialised tf.Examples from equally long columns; a list column becomes a feature of several values."""
    arrays = []
    for values in columns.values():
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            values = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)
        if pa.types.is_string(values.type.value_type):
            values = values.cast(pa.list_(pa.binary()))
        arrays.append(values)
    encoder = RecordBatchToExamplesEncoder()
    serialised: list[bytes] = encoder.encode(pa.RecordBatch.from_arrays(arrays, list(columns)))
    return serialised


class FromExamples(beam.DoFn):
    """Lists of serialised tf.Examples → columns; features of one value a row come as flat arrays.

    Args:
        lists: Features that may hold several values a row; they stay list arrays.
        only: Where given, other features are dropped.
    """

    def __init__(self, lists: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> None:
        self._lists, self._only = lists, only

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, serialised: list[bytes]) -> Iterator[Columns]:
        yield decode(self._decoder, serialised, self._lists, self._only)


def decode(
    decoder: ExamplesToRecordBatchDecoder,
    serialised: list[bytes],
    lists: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> Columns:
    """What `FromExamples` does to one list of serialised tf.Examples."""
    batch = decoder.DecodeBatch(serialised)
    columns: Columns = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        if only and name not in only:
            continue
        columns[name] = values if name in lists else values.flatten()
    return columns


def read_split(
    folder: str, split: str, lists: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> Iterator[tuple[list[bytes], Columns]]:
    """One split of the Examples artifact in `folder`, outside Beam; see `read_files`."""
    return read_files(sorted(tf.io.gfile.glob(f"{folder}/Split-{split}/*")), lists, only)


def read_files(
    files: list[str], lists: tuple[str, ...] = (), only: tuple[str, ...] = (), batch_rows: int = DECODE_ROWS
) -> Iterator[tuple[list[bytes], Columns]]:
    """Files of an Examples artifact, outside Beam: serialised rows and their columns, a batch at a time; see
    `FromExamples`."""
    decoder = ExamplesToRecordBatchDecoder()
    for batch in tf.data.TFRecordDataset(files, "GZIP").batch(batch_rows).as_numpy_iterator():
        serialised = list(batch)
        yield serialised, decode(decoder, serialised, lists, only)


class ReadExamples(beam.PTransform):
    """One split of an Examples artifact → columns."""

    def __init__(self, artifact: Artifact, split: str, lists: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._pattern = f"{artifact_utils.get_split_uri([artifact], split)}/*"
        self._fn = FromExamples(lists, only)

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Columns]:
        return pipeline | "Read" >> ReadRecords(self._pattern) | "Decode" >> beam.ParDo(self._fn)


class ReadSplits(beam.PTransform):
    """Several splits of an Examples artifact → columns, with the place of the split among them as a further one.

    It is one read, so that equal runs see the rows in equal order, which those that Beam flattens do not.

    Args:
        artifact: The artifact.
        splits: Names.
        mark: Name of the further column, int64.
    """

    def __init__(self, artifact: Artifact, splits: tuple[str, ...], mark: str) -> None:
        super().__init__()
        patterns = [f"{artifact_utils.get_split_uri([artifact], split)}/*" for split in splits]
        matches = enumerate(FileSystems.match(patterns))
        self._files = [(code, meta) for code, match in matches for meta in match.metadata_list]
        self._mark = mark

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Columns]:
        files = pipeline | "Files" >> beam.Create(self._files, reshuffle=False)
        return files | "Spread" >> beam.Reshuffle() | "Read" >> beam.ParDo(_ReadMarked(self._mark))


class _ReadMarked(beam.DoFn):
    """(code, file) → columns."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def setup(self) -> None:
        self._decoder = ExamplesToRecordBatchDecoder()

    def process(self, file: tuple[int, FileMetadata]) -> Iterator[Columns]:
        code, meta = file
        for records in read_file(meta):
            marks = pa.array(np.full(len(records), code, np.int64))
            yield {**decode(self._decoder, records), self._mark: marks}


def example_files(artifact: Artifact) -> list[FileMetadata]:
    """All files of an Examples artifact."""
    splits = artifact_utils.decode_split_names(artifact.split_names)
    patterns = [f"{artifact_utils.get_split_uri([artifact], split)}/*" for split in splits]
    return [meta for match in FileSystems.match(patterns) for meta in match.metadata_list]


class WriteExamples(beam.PTransform):
    """Lists of serialised tf.Examples → gzipped TFRecord shards of one split of an Examples artifact.

    Args:
        artifact: The artifact.
        split: Its split.
        name: Of the files.
    """

    def __init__(self, artifact: Artifact, split: str, name: str = "examples") -> None:
        super().__init__()
        self._prefix = f"{artifact_utils.get_split_uri([artifact], split)}/{name}"
        self._unfinished = f"{artifact.uri}/{UNFINISHED}/{split}-{name}"

    def expand(self, examples: beam.PCollection[list[bytes]]) -> beam.PCollection:
        return examples | WriteRecords(self._prefix, self._unfinished)


def close_splits(artifact: Artifact) -> None:
    """Call when everything was written: every split has a file then, for TFX's components read no split without."""
    if tf.io.gfile.exists(f"{artifact.uri}/{UNFINISHED}"):
        tf.io.gfile.rmtree(f"{artifact.uri}/{UNFINISHED}")
    for split in artifact_utils.decode_split_names(artifact.split_names):
        folder = artifact_utils.get_split_uri([artifact], split)
        if not tf.io.gfile.glob(f"{folder}/*"):
            tf.io.gfile.makedirs(folder)
            with tf.io.gfile.GFile(f"{folder}/examples-00000-of-00001.gz", "wb") as handle:
                handle.write(gzip.compress(b"", mtime=0))


def declare_splits(artifact: Artifact, splits: tuple[str, ...]) -> None:
    """Names the splits of an Examples artifact; call before anything is written into them."""
    artifact.split_names = artifact_utils.encode_split_names(list(splits))


def declare_counts(artifact: Artifact, counts: dict[str, int]) -> None:
    """Keeps the account of rows in the artifact's properties."""
    artifact.set_string_custom_property("counts", json.dumps(counts))


def user_buckets(files: list[FileMetadata]) -> int:
    """How many buckets to shuffle the users of these files in: one must fit a worker's memory many times over."""
    return max(64, sum(meta.size_in_bytes for meta in files) // BUCKET_BYTES)


class KeyByBucket(beam.DoFn):
    """Columns → (bucket of the value in column `by`, the rows of that bucket): few, large shuffle elements."""

    def __init__(self, by: str, buckets: int) -> None:
        self._by, self._buckets = by, buckets

    def process(self, columns: Columns) -> Iterator[tuple[int, Columns]]:
        if not len(columns[self._by]):
            return
        bucket = hash_buckets(columns[self._by], self._buckets)
        order = np.argsort(bucket, kind="stable")
        found, starts = np.unique(bucket[order], return_index=True)
        for key, rows in zip(found, np.split(order, starts[1:]), strict=True):
            yield int(key), take(columns, rows)
