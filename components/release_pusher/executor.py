"""What `ReleasePusher` does."""

from __future__ import annotations

import json
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components.release_gen.executor import RELEASE_FILE
from serving.releases import Release, ReleaseError, ReleaseStore
from serving.storage import as_path


class Executor(base_executor.BaseExecutor):
    """Publishes what `release.json` names, if it was accepted."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        folder = as_path(artifact_utils.get_single_uri(input_dict["release"]))
        found = json.loads((folder / RELEASE_FILE).read_text())
        store = ReleaseStore(exec_properties["root"])
        if not found["accepted"]:
            store.recover()
            logging.info("release: the ranker was not accepted; what is served does not change")
            return
        release = Release.from_json(json.dumps(found["release"]), str(folder))
        models = {name: as_path(model) for name, model in found["models"].items()}
        try:
            published = store.publish(release, models)
        except ReleaseError as error:  # it was rolled back
            logging.warning("release: %s", error)
            return
        logging.info("release: version %d is current", published.version)
