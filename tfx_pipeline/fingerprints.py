"""What decides whether a step must run again: the data that goes in, and the code that runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from components.contract.files import ALL_SPANS, Spans, table_files
from components.contract.image_files import find_archives
from components.contract.schema import Schema

PROJECT = Path(__file__).resolve().parent.parent


def data_fingerprint(data: str, schema: Schema, *tables: str, spans: Spans = ALL_SPANS) -> str:
    """Digest of names, sizes and times of the files that make up `tables` in folder `data`, pictures' archives too."""
    found = [meta for table in tables for meta in table_files(data, table, schema.table(table), spans)]
    found += find_archives(data) if "items" in tables else []
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
