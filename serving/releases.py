"""Releases: the encoder, the index, the ranker and the snapshot that belong together, in a folder that servers read.

    ROOT/models/mim_encoder/VERSION      SavedModels, as TensorFlow Serving reads them; one version number for all
    ROOT/models/mim_retrieval/VERSION
    ROOT/models/mim_ranker/VERSION
    ROOT/models/models.config            a ModelServerConfig that names the current version of each
    ROOT/releases/VERSION.json           what was released; it is written last, and a version without one is no release

The release of the largest version is the current one.  A rollback releases the files of an earlier version again,
under a new version, so that a server that takes the newest version and one that reads `models.config` serve the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.representation_center.snapshot import MANIFEST

MODELS_CONFIG = "models.config"
RECORD_FORMAT = 1
_CONFIG_ENTRY = """\
  config {{
    name: "{name}"
    base_path: "{path}"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: {version} }} }}
  }}
"""


class ReleaseError(RuntimeError):
    """There is no such release, or it cannot be made; nothing was changed."""


@dataclass(frozen=True)
class Release:
    """What belongs together.

    Attributes:
        id: Digest of the models' files: equal models, equal ids.
        encoder_version: Of the encoder that made the snapshot, and whose embeddings the index and the ranker read.
        sources: Where each part came from, by name: `encoder`, `index`, `ranker`, `snapshot`, and the statistics of
            the data.
        verdict: One sentence.
        version: The version number of the models; 0 before they are published.
        published_at: ISO 8601; empty before.
        restored_from: The earlier version whose files these are; 0 if they are new.
    """

    id: str
    encoder_version: str
    sources: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    version: int = 0
    published_at: str = ""
    restored_from: int = 0

    def to_json(self) -> str:
        """For a record."""
        return json.dumps({"format": RECORD_FORMAT, **dataclasses.asdict(self)}, indent=2)

    @staticmethod
    def from_json(text: str, where: str = "the record") -> Release:
        """The inverse of `to_json`.

        Raises:
            ReleaseError: it is no record of a release.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != RECORD_FORMAT:
                raise ReleaseError(f"{where} has another format than {RECORD_FORMAT}: a later version of MIM wrote it")
            return Release(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReleaseError(f"{where} is no record of a release: {error!r}") from error


class ReleaseStore:
    """The releases below a root folder.

    Args:
        root: As given to `mim run`.

    Example:
        >>> import tempfile
        >>> from serving.releases import Release, ReleaseStore
        >>> folder = tempfile.mkdtemp()
        >>> models = {}
        >>> for name in ("mim_encoder", "mim_ranker"):
        ...     models[name] = Path(folder) / "made" / name
        ...     models[name].mkdir(parents=True)
        ...     _ = (models[name] / "saved_model.pb").write_bytes(b"")
        >>> store = ReleaseStore(folder)
        >>> first = store.publish(Release("a", "v1"), models)
        >>> second = store.publish(Release("b", "v2"), models)
        >>> store.rollback().restored_from == first.version, store.current().id
        (True, 'a')
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.models, self._records = self.root / "models", self.root / "releases"

    def list(self) -> list[Release]:
        """All releases, the newest first."""
        files = self._records.glob("[0-9]*.json") if self._records.is_dir() else ()
        found = [Release.from_json(file.read_text(), str(file)) for file in files]
        return sorted(found, key=lambda release: -release.version)

    def current(self) -> Release | None:
        """The release that is served; None before the first."""
        return next(iter(self.list()), None)

    def get(self, version: int) -> Release:
        """One release.

        Raises:
            ReleaseError: there is none.
        """
        found = next((release for release in self.list() if release.version == version), None)
        if found is None:
            known = ", ".join(str(release.version) for release in self.list()) or "none"
            raise ReleaseError(f"{self.root} has no release {version}; it has {known}")
        return found

    def publish(self, release: Release, models: Mapping[str, Path]) -> Release:
        """Makes `release` the current one.  Where the current one has the same id, nothing is done.

        All models get one new version number.  A reader of `models.config` sees all of them change at once.

        Args:
            release: Its version and time are set here.
            models: Model name to the folder of its SavedModel.

        Returns:
            The release that is current now.
        """
        with self._locked():
            current = self.current()
            if current is not None and current.id == release.id:
                self._write_config(current.version)
                return current
            self._remove_unfinished()
            version = max(int(time.time()), 1 + (current.version if current else 0))
            for name, source in models.items():
                part = self.models / name / f".part-{version}"
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(source, part, copy_function=_link_or_copy)
            for name in models:
                (self.models / name / f".part-{version}").rename(self.models / name / str(version))
            now = datetime.now(UTC).isoformat(timespec="seconds")
            published = dataclasses.replace(release, version=version, published_at=now)
            self._records.mkdir(parents=True, exist_ok=True)
            _replace(self._records / f"{version}.json", published.to_json())
            self._write_config(version)
            return published

    def promote(self, version: int) -> Release:
        """Releases the files of an earlier version again, under a new version.

        Raises:
            ReleaseError: there is no such release, or its files are gone.
        """
        release = self.get(version)
        models = {folder.parent.name: folder for folder in self.models.glob(f"*/{version}")}
        if not models:
            raise ReleaseError(f"the models of release {version} are gone from {self.models}: run the pipeline again")
        return self.publish(dataclasses.replace(release, restored_from=release.restored_from or version), models)

    def rollback(self) -> Release:
        """Promotes the newest release that differs from the current one.

        Raises:
            ReleaseError: there is none.
        """
        releases = self.list()
        others = [release for release in releases if release.id != releases[0].id]
        if not others:
            raise ReleaseError(f"{self.root} has no other release to go back to")
        return self.promote(others[0].version)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._records.mkdir(parents=True, exist_ok=True)
        with (self._records / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # ends with the process
            yield

    def _remove_unfinished(self) -> None:
        """Removes what a killed process left: parts, and versions above the newest record."""
        newest = max((release.version for release in self.list()), default=0)
        for folder in self.models.glob("*/*"):
            if folder.name.startswith(".part-") or (folder.name.isdigit() and int(folder.name) > newest):
                shutil.rmtree(folder)

    def _write_config(self, version: int) -> None:
        names = sorted(folder.parent.name for folder in self.models.glob(f"*/{version}"))
        entries = [
            _CONFIG_ENTRY.format(name=name, path=(self.models / name).absolute(), version=version) for name in names
        ]
        _replace(self.models / MODELS_CONFIG, "model_config_list {\n" + "".join(entries) + "}\n")


def find_snapshot(folder: str | Path) -> Path:
    """`folder` itself where it is a snapshot; that of the current release where it is the root of runs.

    Raises:
        ReleaseError: neither.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return folder
    current = ReleaseStore(folder).current()
    if current is None:
        raise ReleaseError(
            f"{folder} is neither a snapshot (it has no {MANIFEST}) nor the root of a run that released one; give the "
            "folder of a snapshot, or what was given to `mim run` as --root"
        )
    return Path(current.sources["embeddings"])


def _link_or_copy(source: Any, target: Any) -> Any:
    """A hard link, for models are never changed; a copy where the file system has none, or the file is on another."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _replace(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new text."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)
