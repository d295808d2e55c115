"""`preset: auto`: sizes, batches, epochs and interests from what the data hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.contract.preview import Preview, TablePreview
    from tfx_pipeline.settings import Settings

SAMPLE_BYTES = 4 << 20
# From so many items, or impressions, on the id tables have so many rows that to update all of them in every step takes
# longer than the rest of the step.
ROWWISE_ITEMS, ROWWISE_IMPRESSIONS = 100_000, 10_000_000


@dataclass(frozen=True)
class DataCounts:
    """What a data folder holds.

    Attributes:
        items: Rows of the catalogue.
        impressions: Rows of the log.
        labels_follow_clicks: Whether a further label is set only where there was a click.
    """

    items: int
    impressions: int
    labels_follow_clicks: bool = True

    @staticmethod
    def of_preview(found: Preview) -> DataCounts:
        """Counts of the rows in the files that a preview found; an estimate where only a text's size is known."""
        items = found.tables["items"]
        log = next(found.tables[name] for name in ("impressions", "events") if name in found.tables)
        follow = _labels_follow_clicks(log, found.schema.labels)
        return DataCounts(_rows(items, ASSUMED.items), _rows(log, ASSUMED.impressions), follow)


ASSUMED = DataCounts(items=20_000, impressions=1_000_000)  # where no data are looked at


def auto_values(counts: DataCounts) -> dict[str, Any]:
    """Settings that suit the data, as a settings file would hold them.

    Args:
        counts: Of the data.
    """
    items, rows = max(counts.items, 1), max(counts.impressions, 1)
    small, large = rows < 100_000, rows >= 3_000_000
    clusters = min(64, max(8, round(items**0.5 / 2)))
    epochs = 8 if rows < 1_000_000 else 6 if rows < 3_000_000 else 2
    rowwise = items >= ROWWISE_ITEMS or rows >= ROWWISE_IMPRESSIONS
    interests = ["mean_pooling", "target_attention", "modal_attention", "semantic_target_attention", "sim_tier"]
    interests += ["attribute_match", *([] if small else ["learned_similarity"])]
    return {
        "data": {"statistics": {"enabled": True}, "content_clusters": clusters, "content_words": 200},
        "stages": {
            "encoder": {
                "embedding_dim": 64,
                "text": {"vocabulary_size": 4_000 if items < 10_000 else 16_000, "max_tokens": 48},
                "image": {"image_size": 48, "filters": [32, 64, 96]},
            },
            "pretrain": {
                "training": {
                    "epochs": min(20, max(3, round(200_000 / items))),
                    "batch_size": 128,
                    "learning_rate": 0.002,
                }
            },
            "csft": {"trainable": "head", "training": {"epochs": 6, "batch_size": 256, "learning_rate": 0.001}},
            "ciubm": {
                "id_dim": 32 if large else 16,
                "interests": interests,
                "calibration": "platt",
                "ensemble_size": 3 if small else 1,
                "multi_label": "esmm" if counts.labels_follow_clicks else "independent",
                "id_embedding_l2": 2e-3 if small else 2e-4,
                "id_embedding_update": "rowwise_adagrad" if rowwise else "dense",
                "training": {
                    "jit_compile": True,
                    "steps_per_execution": 10,
                    "epochs": epochs,
                    "patience": min(2, epochs - 1),
                    "monitor": "logloss",
                    "batch_size": 256 if small else 4_096 if large else 1_024,
                    "learning_rate": 0.002 if large else 0.001,
                },
            },
        },
    }


def _labels_follow_clicks(log: TablePreview, labels: tuple[str, ...]) -> bool:
    """Whether of the rows with a further label at most a fiftieth has no click."""
    if not log.used:
        return True
    clicked = log.valid["clicked"].to_numpy(zero_copy_only=False) == 1
    labelled = [log.valid[label].to_numpy(zero_copy_only=False) == 1 for label in labels[1:]]
    return all((rows & ~clicked).sum() <= 0.02 * rows.sum() for rows in labelled)


def describe(counts: DataCounts, settings: Settings) -> str:
    """What a run with `preset: auto` uses, and why, a line a choice.

    Args:
        counts: Of the data.
        settings: Of the run, with what was set by hand.
    """
    stages, data = settings.stages, settings.data
    ciubm, pretrain = stages.ciubm, stages.pretrain.training
    interests = ", ".join(interest.name for interest in ciubm.interests)
    lines = [
        f"about {counts.items:,} items and {counts.impressions:,} impressions",
        f"at most {data.content_clusters} clusters of pictures and of texts (half the root of the items, 8 to 64) and "
        f"{data.content_words} words as attributes, those in which users differ",
        f"stage 1: {pretrain.epochs} epochs (the fewer the more items), {stages.encoder.text.vocabulary_size:,} tokens",
        f"stage 3: batches of {ciubm.training.batch_size:,}, learning rate {ciubm.training.learning_rate:g}, at most "
        f"{ciubm.training.epochs} epochs (the fewer the more impressions), best epoch by {ciubm.training.monitor}",
        f"interests: {interests} (learned_similarity from 100,000 impressions on)",
        f"rankers whose logits are averaged: {ciubm.ensemble_size} (3 below 100,000 impressions)",
        f"id embeddings: width {ciubm.id_dim}, L2 {ciubm.id_embedding_l2:g} (stronger below 100,000 impressions), "
        f"updates {ciubm.id_embedding_update} (rowwise_adagrad from {ROWWISE_ITEMS:,} items or "
        f"{ROWWISE_IMPRESSIONS:,} impressions on)",
    ]
    return "\n".join(f"auto: {line}" for line in lines)


def _rows(table: TablePreview, assumed: int) -> int:
    """Rows of a table by its files alone, so that the same data always give the same settings."""
    if table.total:
        return table.total
    try:
        return sum(_rows_of_text(Path(file)) for file in table.files)
    except OSError:  # not on this machine
        return assumed


def _rows_of_text(file: Path) -> int:
    """Lines of a text file, from its size and its first mebibytes."""
    from components.contract.tables import unpacked  # imports Beam

    with file.open("rb") as packed, unpacked(packed, file.name) as handle:
        head = handle.read(SAMPLE_BYTES)
        share = packed.tell() / max(file.stat().st_size, 1)
    return round(head.count(b"\n") / max(share, 1e-9)) if head else 0
