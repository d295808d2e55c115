"""Draws docs/flow.png, the picture of the flow in the README:  python docs/draw_flow.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DATA, BEAM, TRAIN, SERVE = "#e8ecf1", "#cfe3f7", "#fde2c4", "#cdebd6"
BOXES = {
    "items": (0, 3, "items\npictures · titles", DATA),
    "impressions": (0, 1, "impressions\nwho saw what, clicked?", DATA),
    "intents": (0, 2, "intents (optional)\nquery → item", DATA),
    "catalogue": (1, 3, "CatalogueGen\nchecked items, clusters", BEAM),
    "pairs": (1, 2, "PairGen\npairs, training window", BEAM),
    "history": (1, 1, "HistoryGen\npoint-in-time histories", BEAM),
    "pretrain": (2, 3, "1 · pre-training\nalign picture and words", TRAIN),
    "csft": (2, 2, "2 · C-SFT\ncontrast on behaviour", TRAIN),
    "export": (3, 2, "EmbeddingExporter\nsnapshot, int8", BEAM),
    "ciubm": (3, 1, "3 · CiUBM\nids + content → click", TRAIN),
    "index": (4, 2, "retrieval index", SERVE),
    "evaluate": (4, 1, "Evaluator, baselines\nGAUC, cold · tail · rest", BEAM),
    "release": (5, 1, "release\nencoder · index · ranker", SERVE),
    "serving": (5, 2, "TF Serving\nrank · similar · embed", SERVE),
}
ARROWS = [
    ("items", "catalogue"), ("intents", "pairs"), ("impressions", "history"), ("catalogue", "pretrain"),
    ("pretrain", "csft"), ("pairs", "csft"), ("csft", "export"), ("export", "ciubm"), ("history", "ciubm"),
    ("export", "index"), ("ciubm", "evaluate"), ("evaluate", "release"), ("index", "release"), ("release", "serving"),
]  # fmt: skip
WIDTH, HEIGHT, STEP_X, STEP_Y = 2.0, 0.72, 2.55, 1.15


def main() -> None:
    """Writes the picture."""
    figure = Figure(figsize=(13.2, 3.7))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-1.15, 5 * STEP_X + 1.15)
    axes.set_ylim(STEP_Y - 0.6, 3 * STEP_Y + 0.6)
    for column, row, text, colour in BOXES.values():
        x, y = column * STEP_X, row * STEP_Y
        shape = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            fc=colour,
            ec="#52606d",
        )
        axes.add_patch(shape)
        axes.text(x, y, text, ha="center", va="center", fontsize=8)
    for start, end in ARROWS:
        (c0, r0, *_), (c1, r1, *_) = BOXES[start], BOXES[end]
        side = c1 > c0
        tail = (
            (c0 * STEP_X + WIDTH / 2, r0 * STEP_Y)
            if side
            else (c0 * STEP_X, r0 * STEP_Y + (HEIGHT / 2) * (1 if r1 > r0 else -1))
        )
        head = (
            (c1 * STEP_X - WIDTH / 2, r1 * STEP_Y)
            if side
            else (c1 * STEP_X, r1 * STEP_Y + (HEIGHT / 2) * (1 if r0 > r1 else -1))
        )
        axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": "#52606d", "shrinkA": 1, "shrinkB": 2})
    figure.savefig(Path(__file__).parent / "flow.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
