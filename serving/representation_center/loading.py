"""A snapshot into a Center."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving.representation_center.center import RepresentationCenter, Version
from serving.representation_center.snapshot import Manifest, check_snapshot, read_sorted_rows

BATCH_ROWS = 20_000


def load_snapshot(
    center: RepresentationCenter, folder: Path, progress: Callable[[int, int], None] = lambda done, of: None
) -> Manifest:
    """Loads a snapshot; its version can be promoted afterwards, and is not promoted by this.

    The whole snapshot is checked before the Center is touched.  A version that is there already is brought up to
    date; vectors that came from events after the snapshot was made are kept.

    Args:
        center: Where it goes.
        folder: The snapshot.
        progress: Called with (vectors loaded, vectors in all).

    Raises:
        SnapshotError: the snapshot is broken.
        CenterError: the Center has another encoder under the same version.
    """
    manifest = check_snapshot(folder)
    version = Version(manifest.encoder_version, manifest.encoder_digest, manifest.dimension, manifest.dtype)
    center.add_version(version)
    done = 0
    for rows in read_sorted_rows(folder, manifest, BATCH_ROWS):
        center.put(
            manifest.encoder_version,
            rows.item_ids,
            rows.content_hashes,
            rows.vectors,
            rows.modalities,
            event_time=manifest.created_at,
        )
        done += len(rows.item_ids)
        progress(done, manifest.count)
    center.mark_ready(manifest.encoder_version)
    return manifest
