"""What `ReleaseGen` does."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.baseline_check.executor import BLESSED, FILE, sentence
from components.embedding_exporter.executor import FACTS
from serving.releases import Release
from serving.representation_center.snapshot import SnapshotError, read_manifest
from serving.storage import as_path, find, write_text

RELEASE_FILE = "release.json"
ENCODER, INDEX, RANKER = "mim_encoder", "mim_retrieval", "mim_ranker"
MODELS = {ENCODER: "encoder", INDEX: "index", RANKER: "ranker"}  # model name → input
_CHUNK = 1 << 20


class Executor(base_executor.BaseExecutor):
    """Writes `release.json`: the release, and whether it may be published."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        sources = {name: str(artifact_utils.get_single_uri(artifacts)) for name, artifacts in input_dict.items()}
        models = {name: path_utils.serving_model_path(sources[source]) for name, source in MODELS.items()}
        encoder, ranker = (_facts(models[name]) for name in (ENCODER, RANKER))
        snapshot = read_manifest(sources["embeddings"])
        for part, version in (("snapshot", snapshot.encoder_version), ("ranker", ranker["encoder_version"])):
            if version != encoder["version"]:
                raise SnapshotError(
                    f"the {part} is of encoder {version}, and the release's encoder is {encoder['version']}; parts of "
                    "different runs do not belong together: run the pipeline again"
                )
        verdict = sentence(json.loads(_read(f"{sources['comparison']}/{FILE}")))
        release = Release(
            digest(models.values()),
            encoder["version"],
            {name: sources[name] for name in sorted(set(sources) - {"blessing", "comparison"})},
            verdict,
        )
        (blessing,) = input_dict["blessing"]
        accepted = blessing.get_int_custom_property(BLESSED) == 1
        folder = artifact_utils.get_single_uri(output_dict["release"])
        found = {"accepted": accepted, "models": models, "release": json.loads(release.to_json())}
        write_text(as_path(folder) / RELEASE_FILE, json.dumps(found))


def digest(folders: Any) -> str:
    """Digest of the files below folders, their names relative to them included."""
    found = hashlib.sha256()
    for folder in folders:
        for name in find(as_path(folder)):
            found.update(f"/{name}".encode())
            with (as_path(folder) / name).open("rb") as handle:
                while piece := handle.read(_CHUNK):
                    found.update(piece)
    return found.hexdigest()[:16]


def _facts(model: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(_read(f"{model}/{FACTS}"))
    return facts


def _read(path: str) -> str:
    return str(as_path(path).read_text())
