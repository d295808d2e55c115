"""Where the last snapshot of each encoder lies: one small file an encoder version, replaced by a rename."""

from __future__ import annotations

from pathlib import Path

from serving.representation_center.snapshot import MANIFEST, Manifest, SnapshotError, read_manifest

SUFFIX = ".snapshot"


def point_to(pointers: str | Path, folder: Path, manifest: Manifest) -> None:
    """Makes `folder` the last snapshot of its encoder."""
    file = Path(pointers) / (manifest.encoder_version + SUFFIX)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(f"{folder}\n")
    part.rename(file)


def last_snapshot(pointers: str | Path, encoder_version: str) -> tuple[Path, Manifest] | None:
    """The last snapshot of an encoder, or None where there is none or its folder is gone."""
    file = Path(pointers) / (encoder_version + SUFFIX)
    try:
        folder = Path(file.read_text().strip())
        return folder, read_manifest(folder)
    except (FileNotFoundError, SnapshotError):
        return None


def find_snapshot(place: str | Path) -> Path:
    """`place` itself where it is a snapshot; the newest one where it is the root of runs.

    Raises:
        SnapshotError: neither.
    """
    place = Path(place)
    if (place / MANIFEST).is_file():
        return place
    for file in sorted((place / "snapshots").glob("*" + SUFFIX), key=lambda path: -path.stat().st_mtime):
        if found := last_snapshot(file.parent, file.stem):
            return found[0]
    raise SnapshotError(
        f"{place} is neither a snapshot (it has no {MANIFEST}) nor the root of a run that exported one; "
        "give the folder of a snapshot, or what was given to `mim run` as --root"
    )
