"""Trains a peer of `benchmarks/peers.py` with one seed, and keeps what it says after each epoch; runs where `make peer`
put PyTorch.

    python -m benchmarks.peer_quality FOLDER EPOCHS SEED OUT.npz [TEXT.npy]

FOLDER holds the rows: train.npz, valid.npz and test.npz.  OUT.npz gets `valid` and `test`: click probabilities of the
rows in their order, float32 [epochs, rows].
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.peer_models import BATCH, Columns, Peer, batches, columns, feature_map

EVALUATED_ROWS = 8192


def train(folder: Path, epochs: int, seed: int, text: np.ndarray | None) -> dict[str, np.ndarray]:
    """What the cross network over the mean of the history says of valid and test, epoch by epoch."""
    torch.manual_seed(seed)
    features = feature_map(np.load(folder / "train.npz"), "dcn")
    rows = {split: columns(np.load(folder / f"{split}.npz"), features) for split in ("train", "valid", "test")}
    model = Peer(features, "dcn", text)
    scores: dict[str, list[np.ndarray]] = {"valid": [], "test": []}
    total = len(rows["train"]["clicked"])
    for epoch in range(1, epochs + 1):
        begin = time.monotonic()
        model.train()
        losses = [model.train_step(batch).detach() for batch in batches(rows["train"], torch.randperm(total), BATCH)]
        seconds = time.monotonic() - begin
        for split, found in scores.items():
            found.append(_scores(model, rows[split]))
        loss, speed = float(torch.stack(losses).mean()), total / seconds
        print(f"seed {seed} epoch {epoch}/{epochs}  loss {loss:.4f}  {speed:,.0f} rows/s", file=sys.stderr, flush=True)
    return {split: np.stack(found) for split, found in scores.items()}


def _scores(model: Peer, rows: Columns) -> np.ndarray:
    model.eval()
    order = torch.arange(len(rows["clicked"]))
    with torch.no_grad():
        said = [model(batch)["y_pred"].flatten() for batch in batches(rows, order, EVALUATED_ROWS)]
    return torch.cat(said).numpy()


if __name__ == "__main__":
    source, number, start, out, *texts = sys.argv[1:]
    found = train(Path(source), int(number), int(start), np.load(texts[0]) if texts else None)
    with open(out, "wb") as file:
        np.savez(file, allow_pickle=False, **found)
