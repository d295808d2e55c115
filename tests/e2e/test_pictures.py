"""One picture in many encodings has one embedding: in the catalogue, in an event, at the client, at the server."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_text  # noqa: F401  registers the tokenizer's operations
from PIL import Image

from serving.client import ENCODER, MimClient
from serving.embedded_server.server import EmbeddedServer
from serving.representation_center.events import FolderEvents
from tests.components.runner import run_catalogue
from tests.conftest import Run
from tfx_pipeline.importers.sample_pictures import draw_picture

TITLE = "Lovely red star mug"


def encodings() -> dict[str, bytes]:
    """The same picture to a viewer, in the formats and modes of shops."""
    drawn = draw_picture(np.random.default_rng(0), "red", "star", "plain", "smooth", size=96)
    plain = Image.open(io.BytesIO(drawn)).convert("RGB")

    def save(picture: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()

    hidden = plain.convert("RGBA")
    sideways = Image.Exif()
    sideways[274] = 6
    return {
        "plain": save(plain, "PNG"),
        "jpeg": save(plain, "JPEG", quality=95),
        "progressive": save(plain, "JPEG", quality=95, progressive=True),
        "sideways": save(plain.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=sideways),
        "cmyk": save(plain.convert("CMYK"), "JPEG", quality=95),
        "rgba": save(hidden, "PNG"),
        "palette": save(plain.quantize(256), "PNG"),
        "webp": save(plain, "WEBP", quality=95),
        "avif": save(plain, "AVIF", quality=90),
        "tiff": save(plain, "TIFF"),
        "bmp": save(plain, "BMP"),
        "gif": save(plain.quantize(256), "GIF"),
        "animated webp": save(plain, "WEBP", save_all=True, append_images=[Image.new("RGB", plain.size)], quality=95),
        "lossless webp": save(hidden, "WEBP", lossless=True),
    }


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return encodings()


def test_four_ways_to_one_embedding(tiny_run: Run, pictures: dict[str, bytes], tmp_path: Path) -> None:
    names = list(pictures)
    pq.write_table(
        pa.table({"item_id": names, "title": [TITLE] * len(names), "image": list(pictures.values())}),
        tmp_path / "items.parquet",
    )
    made = run_catalogue(tmp_path, tmp_path / "out")
    by_catalogue = _images(made)
    assert set(by_catalogue) == set(names)
    events = tmp_path / "events"
    events.mkdir()
    lines = [
        {"item_id": name, "title": TITLE, "image": base64.b64encode(data).decode()} for name, data in pictures.items()
    ]
    (events / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    by_event = {event.item_id: event.content for event in FolderEvents(events).poll(100)}
    with EmbeddedServer(tiny_run.root / "models", port=0) as server, MimClient(server.address, timeout=20) as client:
        client.wait_until_available(ENCODER)

        def embedded(images: list[bytes]) -> np.ndarray:
            found: np.ndarray = client.embed_many([(image, TITLE, "") for image in images]).vectors
            return found

        by_client = embedded([pictures[name] for name in names])
        raw = {"image": np.array([by_catalogue[name] for name in names], object)}
        raw |= {what: np.array([words] * len(names), object) for what, words in (("title", TITLE), ("text", ""))}
        served = client.predict(ENCODER, "", raw)["embedding"]
        assert (by_client @ by_client[0]).min() > 0.99, dict(zip(names, by_client @ by_client[0], strict=True))
        np.testing.assert_array_equal(served, by_client)
    for name in names:
        content = by_event[name]
        assert content is not None
        assert content.image == by_catalogue[name], "one content, one hash"


def _images(made: Any) -> dict[str, bytes]:
    import tensorflow as tf
    from tfx.types import artifact_utils

    found = {}
    for split in ("train", "valid"):
        for file in Path(artifact_utils.get_split_uri([made], split)).iterdir():
            for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
                feature = tf.train.Example.FromString(record).features.feature
                found[feature["item_id"].bytes_list.value[0].decode()] = feature["image"].bytes_list.value[0]
    return found
