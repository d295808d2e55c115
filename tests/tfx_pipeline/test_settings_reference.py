"""The settings reference is the code's."""

from __future__ import annotations

from pathlib import Path

from tfx_pipeline.settings import Settings
from tfx_pipeline.settings_reference import keys, reference

PAGE = Path(__file__).parents[2] / "docs/settings.md"


def test_the_page_is_made_from_the_code() -> None:
    assert PAGE.read_text() == reference(), "python -m tfx_pipeline.settings_reference > docs/settings.md"


def test_every_key_has_a_meaning_and_can_be_set() -> None:
    found = list(keys())
    assert [key.path for key in found if not key.meaning] == []
    assert len(found) > 90
    assert "`ingestion_lag_seconds` | int | 0 | How long" in reference()
    by_path = {key.path: key for key in found}
    assert by_path["data.cold_max_clicks"].default == "5"
    changed = [f"{path}={by_path[path].default}" for path in by_path if by_path[path].kind in ("int", "float", "bool")]
    assert Settings.load("shop", changed).data.cold_max_clicks == 5
