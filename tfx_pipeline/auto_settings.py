"""`preset: auto`: sizes, batches, epochs and interests from what the data hold."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.contract.preview import Preview, TablePreview

SAMPLE_BYTES, GZIP_RATIO = 1 << 20, 6.0


@dataclass(frozen=True)
class DataCounts:
    """What a data folder holds, as far as a glance tells.

    Attributes:
        items: Rows of the catalogue.
        impressions: Impressions of the log.
        has_pictures: Whether items have pictures.
    """

    items: int
    impressions: int
    has_pictures: bool

    @staticmethod
    def of_preview(found: Preview) -> DataCounts:
        """Counts from the rows that were tried, and the sizes of the files."""
        items = found.tables["items"]
        log = next(found.tables[name] for name in ("impressions", "events") if name in found.tables)
        impressions = _rows(log) * log.used / max(log.rows, 1)
        has_pictures = items.images_tried > sum(
            count for reason, count in items.missing.items() if reason.startswith(("image", "picture"))
        )
        return DataCounts(_rows(items), round(impressions), has_pictures)


ASSUMED = DataCounts(items=20_000, impressions=1_000_000, has_pictures=True)


def auto_values(counts: DataCounts) -> tuple[dict[str, Any], list[str]]:
    """Settings that suit the data, as a settings file would hold them, and a line a choice that says why.

    Args:
        counts: Of the data.
    """
    items, rows = max(counts.items, 1), max(counts.impressions, 1)
    small, large = rows < 100_000, rows >= 3_000_000
    batch = 256 if small else 4_096 if large else 1_024
    epochs = 8 if rows < 1_000_000 else 6 if rows < 3_000_000 else 2
    pretrain_epochs = min(20, max(3, round(200_000 / items)))
    vocabulary = 4_000 if items < 10_000 else 16_000
    interests = ["mean_pooling", "target_attention", "modal_attention", "semantic_target_attention", "sim_tier"]
    interests += ["attribute_match", *([] if small else ["learned_similarity"])]
    training = {"jit_compile": True, "steps_per_execution": 10}
    values = {
        "data": {"statistics": {"enabled": True}},
        "stages": {
            "encoder": {
                "embedding_dim": 64,
                "text": {"vocabulary_size": vocabulary, "max_tokens": 48},
                "image": {"image_size": 48, "filters": [32, 64, 96]},
            },
            "pretrain": {"training": {"epochs": pretrain_epochs, "batch_size": 128, "learning_rate": 0.002}},
            "csft": {"trainable": "head", "training": {"epochs": 6, "batch_size": 256, "learning_rate": 0.001}},
            "ciubm": {
                "id_dim": 32 if large else 16,
                "interests": interests,
                "id_embedding_l2": 2e-3 if small else 2e-4,
                "training": {
                    **training,
                    "epochs": epochs,
                    "patience": min(2, epochs - 1),
                    "monitor": "logloss",
                    "batch_size": batch,
                    "learning_rate": 0.002 if large else 0.001,
                },
            },
        },
    }
    lines = [
        f"auto: about {items:,} items and {rows:,} impressions{'' if counts.has_pictures else ', no pictures'}",
        f"auto: stage 1 {pretrain_epochs} epochs, of some 200,000 items in all; a vocabulary of {vocabulary:,} words",
        f"auto: stage 3 batches of {batch:,}, at most {epochs} epochs, the one of the least validation LogLoss is kept",
        f"auto: interests {', '.join(interests)}" + ("; learned_similarity needs 100,000 impressions" if small else ""),
    ]
    return values, lines


def _rows(table: TablePreview) -> int:
    """Rows of a table; an estimate where neither the preview nor the files tell."""
    if table.whole:
        return table.rows
    return table.total or sum(_rows_of_text(Path(file)) for file in table.files)


def _rows_of_text(file: Path) -> int:
    """Lines of a text file, from its size and its first mebibyte."""
    is_gzip = file.suffix == ".gz"
    with gzip.open(file) if is_gzip else file.open("rb") as handle:
        head = handle.read(SAMPLE_BYTES)
    size = file.stat().st_size * (GZIP_RATIO if is_gzip else 1.0)
    return round(max(size / max(len(head), 1), 1.0) * head.count(b"\n"))
