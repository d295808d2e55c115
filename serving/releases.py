"""Releases: the encoder, the index, the ranker and the snapshot that belong together, in a folder that servers read.

    ROOT/models/mim_encoder/VERSION      SavedModels, as TensorFlow Serving reads them; one version number for all
    ROOT/models/mim_retrieval/VERSION
    ROOT/models/mim_ranker/VERSION
    ROOT/models/models.config            a ModelServerConfig that names the current version of each
    ROOT/releases/VERSION.json           what was released; written after the models, and before `models.config`
    ROOT/releases/withdrawn.json         ids of releases that were rolled back

The release of the largest version is the current one.  A rollback releases the files of an earlier version again,
under a new version, so that a server that takes the newest version and one that reads `models.config` serve the same.
What a killed process leaves is removed when the folder is next locked.  ROOT may lie on an object store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from upath import UPath

from serving.locks import Check, locked
from serving.representation_center.snapshot import MANIFEST
from serving.storage import as_path, copy_tree, find, kind, remove_tree, write_text

MODELS_CONFIG = "models.config"
RECORD_FORMAT = 1
_INTENT, _WITHDRAWN = "publishing", "withdrawn.json"
_CONFIG_ENTRY = """\
  config {{
    name: {name}
    base_path: {path}
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
        models: Names of the models.
        version: The version number of the models; 0 before they are published.
        published_at: ISO 8601; empty before.
        restored_from: The earlier version whose files these are; 0 if they are new.
    """

    id: str
    encoder_version: str
    sources: dict[str, str] = field(default_factory=dict)
    verdict: str = ""
    models: tuple[str, ...] = ()
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
            release = Release(**{**values, "models": tuple(values["models"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReleaseError(f"{where} is no record of a release: {error!r}") from error
        for field_ in dataclasses.fields(release):
            value, kind = getattr(release, field_.name), type(getattr(_EMPTY, field_.name))
            if type(value) is not kind:
                raise ReleaseError(f"{where} is no record of a release: {field_.name} is {value!r}")
        return release


_EMPTY = Release("", "")


class ReleaseStore:
    """The releases below a root folder.

    Args:
        root: As given to `mim run`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
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

    def __init__(self, root: str | Path | UPath) -> None:
        self.root = as_path(root)
        self.models, self._records = self.root / "models", self.root / "releases"

    def list(self) -> list[Release]:
        """All releases, the newest first.

        Raises:
            ReleaseError: a record cannot be read.
        """
        found = []
        for file in (self._records / name for name in find(self._records) if name.endswith(".json")):
            if not file.stem.isdigit():
                continue
            try:
                release = Release.from_json(file.read_text(), str(file))
            except (OSError, UnicodeDecodeError) as error:
                raise ReleaseError(f"{file} cannot be read: {error}") from error
            if release.version != int(file.stem):
                raise ReleaseError(f"{file} is the record of version {release.version}: give it that name")
            found.append(release)
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

    def publish(self, release: Release, models: Mapping[str, UPath | Path]) -> Release:
        """Makes `release` the current one.  Where the current one has the same id and its models are there, nothing is
        done.

        All models get one new version number.  A reader of `models.config` sees all of them change at once.

        Args:
            release: Its models, version and time are set here.
            models: Model name to the folder of its SavedModel.

        Returns:
            The release that is current now.

        Raises:
            ReleaseError: it was rolled back; `promote` takes it back.
        """
        with self._locked() as check:
            if release.id in self._withdrawn():
                raise ReleaseError(
                    f"release {release.id} was rolled back and is not published again; `mim releases promote VERSION` "
                    "takes it back"
                )
            return self._publish(release, models, check)

    def promote(self, version: int) -> Release:
        """Releases the files of an earlier version again, under a new version.

        Raises:
            ReleaseError: there is no such release, or its files are gone.
        """
        with self._locked() as check:
            return self._restore(self.get(version), check)

    def rollback(self) -> Release:
        """Promotes the release before the current one, and withdraws the current one: a run does not publish it again.

        Raises:
            ReleaseError: there is none.
        """
        with self._locked() as check:
            current, withdrawn = self.current(), self._withdrawn()
            first = 0 if current is None else current.restored_from or current.version
            skipped = withdrawn | {"" if current is None else current.id}
            originals = [one for one in self.list() if one.version < first and not one.restored_from]
            earlier = [one for one in originals if one.id not in skipped]
            if current is None or not earlier:
                raise ReleaseError(f"{self.root} has no earlier release to go back to")
            restored = self._restore(earlier[0], check)
            self._withdraw(withdrawn | {current.id})
            return restored

    def recover(self) -> None:
        """Removes what a killed process left.  Every other method that writes does so first."""
        with self._locked():
            pass

    def _restore(self, release: Release, check: Check) -> Release:
        models = {name: self.models / name / str(release.version) for name in release.models}
        missing = [str(folder) for folder in models.values() if kind(folder) != "directory"]
        if missing or not models:
            raise ReleaseError(
                f"release {release.version} cannot be served again: {', '.join(missing) or 'the list of its models'} "
                "is missing; run the pipeline with its settings"
            )
        self._withdraw(self._withdrawn() - {release.id})
        origin = release.restored_from or release.version
        return self._publish(dataclasses.replace(release, restored_from=origin), models, check)

    def _publish(self, release: Release, models: Mapping[str, UPath | Path], check: Check) -> Release:
        current = self.current()
        if current is not None and current.id == release.id and self._is_whole(current):
            return current
        version = max(int(time.time()), 1 + (current.version if current else 0))
        folders = {name: self.models / name / str(version) for name in models}
        while any(kind(folder) for folder in folders.values()):  # put there by hand
            version += 1
            folders = {name: self.models / name / str(version) for name in models}
        write_text(self._records / _INTENT, json.dumps({"version": version, "models": sorted(models)}))
        try:
            for name, source in models.items():
                copy_tree(as_path(source), folders[name])
            now = datetime.now(UTC).isoformat(timespec="seconds")
            names = tuple(sorted(models))
            published = dataclasses.replace(release, version=version, published_at=now, models=names)
            check()
            write_text(self._records / f"{version}.json", published.to_json())
        finally:
            self._recover()
        return published

    def _is_whole(self, release: Release) -> bool:
        return all(kind(self.models / name / str(release.version)) == "directory" for name in release.models)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Check]:
        with locked(self._records) as check:
            self._recover()
            yield check

    def _recover(self) -> None:
        """Removes the models of a version that was begun and has no record; then `models.config` names the current."""
        intent = self._records / _INTENT
        if kind(intent) == "file":
            begun = json.loads(intent.read_text())
            version = begun["version"]
            for name in begun["models"]:
                remove_tree(self.models / name / f".part-{version}")
                if kind(self._records / f"{version}.json") is None:
                    remove_tree(self.models / name / str(version))
        current = self.current()
        if current is not None and current.models:
            self._write_config(current)
        intent.unlink(missing_ok=True)

    def _write_config(self, release: Release) -> None:
        # JSON's quotes and escapes are those of protobuf's text form.
        paths = {name: json.dumps(str(self.models / name), ensure_ascii=False) for name in release.models}
        entries = [
            _CONFIG_ENTRY.format(name=json.dumps(name), path=path, version=release.version)
            for name, path in paths.items()
        ]
        text = "model_config_list {\n" + "".join(entries) + "}\n"
        file = self.models / MODELS_CONFIG
        if kind(file) is None or file.read_text() != text:
            write_text(file, text)

    def _withdrawn(self) -> set[str]:
        file = self._records / _WITHDRAWN
        return set(json.loads(file.read_text())) if kind(file) == "file" else set()

    def _withdraw(self, ids: set[str]) -> None:
        write_text(self._records / _WITHDRAWN, json.dumps(sorted(ids)))


def find_snapshot(folder: str | Path | UPath) -> UPath:
    """`folder` itself where it is a snapshot; that of the current release where it is the root of runs.

    Raises:
        ReleaseError: neither.
    """
    folder = as_path(folder)
    if kind(folder / MANIFEST) == "file":
        return folder
    current = ReleaseStore(folder).current()
    if current is None:
        raise ReleaseError(
            f"{folder} is neither a snapshot (it has no {MANIFEST}) nor the root of a run that released one; give the "
            "folder of a snapshot, or what was given to `mim run` as --root"
        )
    snapshot = as_path(current.sources.get("embeddings", ""))
    if kind(snapshot / MANIFEST) is None:
        raise ReleaseError(
            f"the snapshot of release {current.version}, {snapshot}, is gone: was {folder} moved? Give the folder of "
            "the snapshot, or run the pipeline again"
        )
    return snapshot
