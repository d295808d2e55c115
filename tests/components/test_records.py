"""TFRecord files written by us are TensorFlow's, and the other way round; a broken one is told."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from components.records import BATCH_RECORDS, ReadRecords, WriteRecords, frame, masked_sum, read_records

RECORDS = [b"", b"a", b"b" * 100_000, *(str(n).encode() for n in range(BATCH_RECORDS + 10))]


def test_tensorflow_reads_what_is_written(tmp_path: Path) -> None:
    with TestPipeline() as pipeline:
        (
            pipeline
            | beam.Create([RECORDS[:5], RECORDS[5:]])
            | WriteRecords(str(tmp_path / "examples"), str(tmp_path / "unfinished"))
        )
    files = sorted(str(path) for path in tmp_path.glob("examples*.gz"))
    assert sorted(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()) == sorted(RECORDS)


def test_what_tensorflow_writes_is_read(tmp_path: Path) -> None:
    for name, part in (("a.gz", RECORDS[:7]), ("b.gz", RECORDS[7:])):
        with tf.io.TFRecordWriter(str(tmp_path / name), "GZIP") as writer:
            for record in part:
                writer.write(record)
    with TestPipeline() as pipeline:
        batches = pipeline | ReadRecords(f"{tmp_path}/*.gz")
        assert_that(batches | beam.FlatMap(lambda batch: batch), equal_to(RECORDS))
        sizes = batches | beam.Map(len) | beam.combiners.Top.Largest(1)
        assert_that(sizes, lambda found: found[0][0] <= BATCH_RECORDS or pytest.fail(str(found)), label="sizes")


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nothing"), TestPipeline() as pipeline:
        pipeline | ReadRecords(f"{tmp_path}/nothing*")


def test_the_checksum_is_tfrecords() -> None:
    stream = io.BytesIO(frame([b"abc"]))
    assert int.from_bytes(stream.getvalue()[8:12], "little") == masked_sum((3).to_bytes(8, "little"))


@given(st.lists(st.binary(max_size=50), max_size=5), st.data())
def test_one_changed_or_missing_byte_is_found(records: list[bytes], data: st.DataObject) -> None:
    whole = frame(records)
    assert [r for batch in read_records(io.BytesIO(whole), "f") for r in batch] == records
    if not whole:
        return
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="f is broken"):
        list(read_records(io.BytesIO(bytes(changed)), "f"))
    ends = {len(frame(records[:count])) for count in range(len(records) + 1)}
    if place not in ends:
        with pytest.raises(ValueError, match="f is broken"):
            list(read_records(io.BytesIO(whole[:place]), "f"))


def test_a_file_is_the_same_in_every_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TestPipeline() as pipeline:
            (
                pipeline
                | beam.Create([RECORDS[:9]])
                | WriteRecords(f"{tmp_path}/{name}/examples", f"{tmp_path}/unfinished")
            )
    first, second = (next((tmp_path / name).glob("*.gz")).read_bytes() for name in ("a", "b"))
    assert first == second
    assert gzip.decompress(first) == frame(RECORDS[:9])
