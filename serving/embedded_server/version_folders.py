"""Which versions of a model its folder and its policy ask for."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mim")

_NUMBER = re.compile(r"[+-]?\d+")
_LARGEST = 2**63


def numbered(names: list[str]) -> dict[int, str]:
    """Version → name, of the names that read as 64-bit numbers; others, `1.tmp` say, are no versions."""
    found: dict[int, str] = {}
    for name in sorted(names):
        if _NUMBER.fullmatch(name) and -_LARGEST <= int(name) < _LARGEST:
            if int(name) in found:
                log.warning(
                    "Duplicate version directories detected. Version %s will be loaded from %s, %s will be ignored.",
                    int(name),
                    name,
                    found[int(name)],
                )
            found[int(name)] = name
    return found


def aspired(model: Any) -> dict[int, Path]:
    """Version → folder, as the ModelConfig `model` asks for; empty where its folder has no version.

    Raises:
        OSError: the folder is missing or cannot be read.
    """
    base = Path(model.base_path)
    if not base.is_dir():
        raise OSError(f"Could not find base path {base} for servable {model.name}")
    found = numbered([child.name for child in base.iterdir()])
    policy = model.model_version_policy
    if policy.HasField("specific"):
        wanted = set(policy.specific.versions)
        for version in sorted(wanted - set(found)):
            log.warning("version %d of %s was asked for and is not in %s", version, model.name, base)
    elif policy.HasField("all"):
        wanted = set(found)
    else:
        wanted = set(sorted(found)[-max(1, policy.latest.num_versions) :])
    return {version: base / name for version, name in found.items() if version in wanted}
