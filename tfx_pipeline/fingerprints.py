"""What decides whether a step must run again: the data that goes in, and the code that runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from components.contract.tables import SUFFIXES

PROJECT = Path(__file__).resolve().parent.parent


def data_fingerprint(data: str, *tables: str) -> str:
    """Digest of names, sizes and times of the files that make up `tables` in folder `data`."""
    patterns = [FileSystems.join(data, table + suffix) for table in tables for suffix in SUFFIXES]
    patterns += [FileSystems.join(data, table, "*" + suffix) for table in tables for suffix in SUFFIXES]
    found = [meta for match in FileSystems.match(patterns) for meta in match.metadata_list]
    lines = sorted(f"{meta.path} {meta.size_in_bytes} {meta.last_updated_in_seconds}" for meta in found)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def code_fingerprint(*packages: str) -> str:
    """Digest of the Python source below the folders `packages` of this project."""
    digest = hashlib.sha256()
    for package in packages:
        place = PROJECT / package
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
