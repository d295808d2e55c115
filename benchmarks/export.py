"""The export of embeddings against the bare encoder; what 1 % of change costs; memory from 10 thousand to a million.

    mim bench export

The shop is generated: pictures drawn, titles written, each content of its own.  "Forward" is the Keras forward pass
alone, on the very batches of the export, read, decoded and tokenised beforehand; it is measured for an encoder of the
large preset and for the far smaller one of the base preset, for which to decode a picture costs as much as to encode
it.  For memory a tiny encoder and items without pictures are used, so that a million take minutes.
Every export runs in a process of its own; its time leaves out Python's imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import publish

SHARDS = 8
BARE_TARGET, CHANGED_TARGET, MEMORY_TARGET = 0.9, 0.03, 1.3
LOOKS = ("red", "blue", "green", "yellow", "small", "large", "striped", "dotted")
THINGS = ("lamp", "mug", "rug", "chair", "shirt", "shoe", "watch", "ring")
WORDS = LOOKS + THINGS


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_000, help="for the base encoder")
    parser.add_argument("--large_items", type=int, default=2_000, help="for the encoder of the large preset")
    parser.add_argument("--memory_items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one_export", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one_export:
        one_export(*map(Path, arguments.one_export))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in ("base", "large", "tiny"):
            write_encoder(folder / size / "Format-Serving", size)
        base, large = speed(folder, "base", arguments.items), speed(folder, "large", arguments.large_items)
        details = {"large": large, "base": base, **memory(folder, arguments.memory_items)}
    met = (
        large["share_of_forward"] >= BARE_TARGET
        and large["changed_share"] <= CHANGED_TARGET
        and details["memory_growth"] <= MEMORY_TARGET
    )
    unit = "of the forward pass's speed, encoder of the large preset"
    publish("export", large["share_of_forward"], unit, BARE_TARGET, details, met)


def speed(folder: Path, size: str, items: int) -> dict[str, Any]:
    """Full, repeated and changed exports, and the bare encoder."""
    write_items(folder / "few", 16, pictures=True)
    write_items(folder / "all", items, pictures=True)
    write_items(folder / "changed", items, pictures=True, changed=max(1, items // 100))
    starts = [export(folder, "few", size)["seconds"] for _ in range(3)]
    full = export(folder, "all", size)
    again = export(folder, "changed", size, full["folder"])
    start = float(np.median(starts))
    forward, whole = bare_seconds(folder / "all", folder / size / "Format-Serving")
    return {
        "items": items,
        "start_seconds": start,
        "full_seconds": full["seconds"],
        "changed_seconds": again["seconds"],
        "changed_counts": again["counts"],
        "forward_seconds": round(forward, 2),
        "forward_and_decoding_seconds": round(whole, 2),
        "forward_items_per_second": round(items / forward),
        "share_of_forward": round(forward / (full["seconds"] - start), 3),
        "share_of_forward_and_decoding": round(whole / (full["seconds"] - start), 3),
        "changed_share": round((again["seconds"] - start) / full["seconds"], 4),
    }


def memory(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Peak memory of exports of growing catalogues."""
    peaks = {}
    for items in sizes:
        write_items(folder / "many", items, pictures=False)
        found = export(folder, "many", "tiny")
        peaks[items] = {"peak_mib": found["peak_mib"], "seconds": found["seconds"]}
    least, most = min(p["peak_mib"] for p in peaks.values()), max(p["peak_mib"] for p in peaks.values())
    return {"memory": peaks, "memory_growth": round(most / least, 3)}


def write_encoder(folder: Path, size: str) -> None:
    """An encoder with random weights: its speed is that of a trained one."""
    from mim_keras.config import preset
    from mim_keras.models import ItemEncoder
    from mim_keras.preprocessing.content import ContentPreprocessor
    from mim_keras.serving.signatures_encoder import export_encoder

    config = preset(size).encoder
    preprocessor, lsa_tables = ContentPreprocessor.fit(config, [" ".join(WORDS)])
    export_encoder(ItemEncoder.from_settings(config, preprocessor, lsa_tables), preprocessor, folder)


def write_items(folder: Path, items: int, pictures: bool, changed: int = 0) -> None:
    """A catalogue as CatalogueGen writes it; the first `changed` items have another title."""
    import pyarrow as pa
    import tensorflow as tf

    from components.examples import to_examples
    from tfx_pipeline.importers.sample_pictures import draw_picture

    rng = np.random.default_rng(0)
    drawn = [draw_picture(rng, "red", "heart", "striped", "smooth") for _ in range(200)] if pictures else [b""]
    for split in ("train", "valid"):
        (folder / f"Split-{split}").mkdir(parents=True, exist_ok=True)
        for old in (folder / f"Split-{split}").iterdir():
            old.unlink()
    for shard, rows in enumerate(np.array_split(np.arange(items), SHARDS)):
        split = "valid" if shard == SHARDS - 1 else "train"
        path = str(folder / f"Split-{split}/examples-{shard:05d}.gz")
        with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)) as out:
            for part in np.array_split(rows, max(1, len(rows) // 4_096)):
                columns = {
                    "item_id": pa.array([f"i{n:09d}" for n in part]),
                    "title": pa.array([title(int(n), n < changed) for n in part]),
                    "text": pa.array([" ".join(title(int(n) + k, False) for k in range(n % 4)) for n in part]),
                    "image": pa.array([drawn[n % len(drawn)] for n in part], pa.binary()),
                }
                for example in to_examples(columns):
                    out.write(example)


def title(n: int, changed: bool) -> str:
    """Words that say which item it is."""
    digits = [WORDS[(n // len(WORDS) ** k) % len(WORDS)] for k in range(5)]
    return ("new " if changed else "") + " ".join(digits)


def export(folder: Path, items: str, encoder: str, previous: str = "") -> dict[str, Any]:
    """One export in a process of its own."""
    out = Path(tempfile.mkdtemp(dir=folder))
    places = [folder / items, folder / encoder, out, *([previous] if previous else [])]
    command = [sys.executable, "-m", "benchmarks.export", "--one_export", *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def one_export(items: Path, encoder: Path, out: Path, previous: Path | None = None) -> None:
    """What the process of an export does."""
    import tensorflow as tf
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    from components.artifacts import ItemEmbeddings
    from components.embedding_exporter.executor import Executor
    from components.engine import IN_PROCESS, beam_flags

    tf.constant(0)
    made, model, embeddings = standard_artifacts.Examples(), standard_artifacts.Model(), ItemEmbeddings()
    made.uri, model.uri, embeddings.uri = str(items), str(encoder), str(out / "embeddings")
    made.split_names = '["train", "valid"]'
    executor = Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam_flags(IN_PROCESS)))
    started = time.perf_counter()
    inputs: dict[str, list[Any]] = {"items": [made], "encoder": [model]}
    if previous is not None:
        inputs["previous"] = [ItemEmbeddings()]
        inputs["previous"][0].uri = str(previous)
    executor.Do(inputs, {"embeddings": [embeddings]}, {"batch_size": 128, "dtype": "int8"})
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    counts = json.loads(embeddings.get_string_custom_property("counts"))
    print(
        json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak), "counts": counts, "folder": embeddings.uri})
    )


def bare_seconds(items: Path, model: Path) -> tuple[float, float]:
    """Seconds over the batches of a full export: of the forward pass alone, and of the served encoder as it is called
    with raw content."""
    import tensorflow as tf

    from mim_keras.preprocessing.content import trim_to_longest
    from mim_keras.serving.signatures_encoder import ENCODER_FOLDER, load_encoder

    encoder, preprocessor = load_encoder(model / ENCODER_FOLDER)
    read = tf.function(lambda raw: trim_to_longest(preprocessor(raw["image"], raw["title"], raw["text"])))
    forward = tf.function(lambda content: encoder(content)["joint"], reduce_retracing=True)
    served = tf.saved_model.load(str(model)).signatures["serving_default"]
    batches = [
        {name: tf.constant(values) for name, values in batch.content.items()}
        for file in sorted(items.glob("Split-*/*"))
        for batch in batches_of(str(file))
    ]

    def seconds(call: Any, inputs: list[Any]) -> float:
        for one in inputs[:8]:
            call(one)
        started = time.perf_counter()
        for one in inputs:
            call(one)
        return time.perf_counter() - started

    whole = seconds(lambda content: served(**content), batches)
    return seconds(forward, [read(content) for content in batches]), whole


def batches_of(file: str) -> Iterator[Any]:
    """The batches that the exporter makes of a file when all of it is new."""
    from components.embedding_exporter.catalogue import ReadContent, ReadIndex
    from components.embedding_exporter.plan import WANTED, Plan

    index, plan, content = ReadIndex(1), Plan(1, "int8"), ReadContent(128)
    index.setup()
    content.setup()
    planned = plan.process((0, {"before": [], "index": [part for _, part in index.process(file)]}))
    wanted = [output.value[1] for output in planned if output.tag == WANTED]
    yield from content.process((file, wanted))


if __name__ == "__main__":
    main()
