"""Models of an object store, copied to a local folder before they are served: TensorFlow reads few stores itself."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2 as pb
from upath import UPath

from serving.releases import MODELS_CONFIG
from serving.storage import as_path, copy_tree, find, kind, remove_tree, write_text

log = logging.getLogger("mim.server")


class RemoteModels:
    """A local copy of the models that a remote `models.config` names; see `serving.releases`.

    Args:
        source: Folder of `models.config`.
        folder: Of the copy.

    Raises:
        FileNotFoundError: there is no `models.config`: nothing was released there yet.
    """

    def __init__(self, source: UPath, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._stop = threading.Event()
        self._text, self._old = "", list[Path]()
        self.copy()

    def copy(self) -> None:
        """Copies the versions that are new, and names them in the local `models.config`.

        The others are removed a call later: a server may still look at the file of before.
        """
        while self._old:
            remove_tree(as_path(self._old.pop()))
        file = self._source / MODELS_CONFIG
        if kind(file) is None:
            raise FileNotFoundError(f"{file} does not exist: nothing was released there yet. Run the pipeline first")
        text = file.read_text()
        if text == self._text:
            return
        config = text_format.Parse(text, pb.ModelServerConfig())
        wanted: dict[str, set[str]] = {}
        for model in config.model_config_list.config:
            versions = {str(version) for version in model.model_version_policy.specific.versions}
            for version in versions - self._versions(model.name):
                self._copy_version(model.name, version)
            wanted[model.name] = versions
            model.base_path = str(self._folder / model.name)
        write_text(as_path(self._folder / MODELS_CONFIG), text_format.MessageToString(config))
        self._text = text
        for name, versions in wanted.items():
            self._old += [self._folder / name / old for old in self._versions(name) - versions]

    def _copy_version(self, name: str, version: str) -> None:
        source, target = self._source / name / version, as_path(self._folder / name / version)
        copy_tree(source, target)
        if set(find(target)) != set(find(source)) or kind(target / "saved_model.pb") is None:
            remove_tree(target)
            raise FileNotFoundError(f"{source} was removed while it was copied")

    def follow(self, seconds: float) -> None:
        """Copies again and again, in a thread, until `stop`."""
        threading.Thread(target=self._follow, args=(max(seconds, 1.0),), name="remote-models", daemon=True).start()

    def stop(self) -> None:
        """Ends `follow`."""
        self._stop.set()

    def _follow(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self.copy()
            except Exception as error:  # what is served stays as it is; the store is asked again
                log.warning("the models of %s cannot be read: %s", self._source, error)

    def _versions(self, name: str) -> set[str]:
        folder = self._folder / name
        found: Any = folder.iterdir() if folder.is_dir() else ()
        return {child.name for child in found if child.name.isdigit()}
