"""The peers of `benchmarks/train.py` and `benchmarks/peers.py`: FuxiCTR's published layers and training step, put
together as in its own models; runs where `make peer` put PyTorch.

    python -m benchmarks.peer_models din|"din dice"|dcn|"dcn text" FOLDER SECONDS

The defaults and the published comparisons give the settings: Adam 1e-3, gradients clipped to a norm of 10, ids of 16,
hidden layers of 256, 128 and 64; for DIN an activation unit of one layer of 64; for DCN three full cross layers beside
the hidden ones, over the mean of the history.  Frozen vectors of text, where there are any, go through one learned map
to 16 numbers, of the item and, in the mean, of the history.

The activation unit has PReLU, as ours.  "din dice" has the published Dice, a batch norm over every click.
"""

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch._inductor.compile_fx  # here, because imports count on neither side
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, DIN_Attention, FeatureEmbeddingDict, MaskedAveragePooling, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import nn
from torch.nn import functional

from benchmarks.training_run import BATCH, Stopwatch, TrainingRun

DIM, RATE, CLIP = 16, 1e-3, 10.0
HIDDEN = [256, 128, 64]
Columns = dict[str, torch.Tensor]


def feature_map(rows: Mapping[str, np.ndarray], kind: str) -> FeatureMap:
    """Ids of user and item, the item's genres, and the history, which shares the items' table."""
    made = FeatureMap("rows", ".")
    encoder = "layers.MaskedAveragePooling()"

    def sequence(name: str, **further: object) -> dict:
        size = {"max_len": rows[name].shape[1], "vocab_size": int(rows[name].max()) + 1}
        return {"type": "sequence", "source": "", "padding_idx": 0, **size, **further}

    def single(name: str) -> dict:
        return {"type": "categorical", "source": "", "padding_idx": 0, "vocab_size": int(rows[name].max()) + 1}

    history = {"share_embedding": "item", "feature_encoder": None}
    made.features = OrderedDict(
        user=single("user"),
        item={**single("item"), "vocab_size": len(rows["genres_of"])},
        genre=sequence("genre", feature_encoder=encoder),
        history=sequence("history", **(history if kind == "din" else {**history, "feature_encoder": encoder})),
    )
    made.labels, made.num_fields = ["clicked"], 4
    made.set_column_index()
    return made


class Peer(BaseModel):
    """Embeddings, then DIN's attention and hidden layers, or a cross network beside them.

    Args:
        features: Of `feature_map`.
        kind: din | dcn.
        text: A vector of each item, float32 [items + 1, ·], that of padding zero; None: no text.
        activation: Of DIN's activation unit, PReLU or Dice.
    """

    def __init__(
        self, features: FeatureMap, kind: str, text: np.ndarray | None = None, activation: str = "PReLU"
    ) -> None:
        super().__init__(features, metrics=["AUC"], model_root="", verbose=0)
        self.kind = kind
        self.embedding_layer = FeatureEmbeddingDict(features, DIM)
        width = 4 * DIM
        self.reads = text is not None
        if text is not None:
            self.register_buffer("text", torch.from_numpy(text))
            self.narrow, self.pool = nn.Linear(text.shape[1], DIM, bias=False), MaskedAveragePooling()
            width += 2 * DIM
        if kind == "din":
            self.attention = DIN_Attention(DIM, attention_units=[64], hidden_activations=activation)
            self.deep = MLP_Block(width, HIDDEN, output_dim=1, output_activation=self.output_activation)
        else:
            self.cross, self.deep = CrossNetV2(width, 3), MLP_Block(width, HIDDEN)
            self.out = nn.Linear(width + HIDDEN[-1], 1)
        self.compile("adam", "binary_crossentropy", RATE)
        self.reset_parameters()
        self.model_to_device()
        self._max_gradient_norm = CLIP

    def forward(self, inputs: dict) -> dict:
        x = self.get_inputs(inputs)
        embedded = self.embedding_layer(x)
        if self.kind == "din":
            mask = x["history"].long() != 0
            embedded["history"] = self.attention(embedded["item"], embedded["history"], mask)
        together = self.embedding_layer.dict2tensor(embedded, flatten_emb=True)
        if self.reads:
            said = self.narrow(self.text)  # (items + 1, DIM)
            own, before = (functional.embedding(x[name].long(), said) for name in ("item", "history"))
            together = torch.cat([together, own, self.pool(before)], dim=-1)
        if self.kind == "din":
            return {"y_pred": self.deep(together)}
        both = torch.cat([self.cross(together), self.deep(together)], dim=-1)
        return {"y_pred": self.output_activation(self.out(both))}


def columns(rows: Mapping[str, np.ndarray], features: FeatureMap) -> Columns:
    """The features and the label as tensors."""
    return {name: torch.from_numpy(rows[name]) for name in (*features.features, "clicked")}


def batches(rows: Columns, order: torch.Tensor, size: int) -> Iterator[Columns]:
    """Rows in this order, so many at a time."""
    return ({name: values[own] for name, values in rows.items()} for own in order.split(size))


def speed(name: str, folder: Path, seconds: float) -> TrainingRun:
    """Trains a peer on the rows in `folder` until its warm steps were timed for so long.

    It gets its best: rows in memory, batches by index, a compiled forward pass and a fused Adam.  These two took the
    CPU time of a step, in one thread, from 50 to 36 ms for the DIN, from 66 to 40 with Dice, from 12.4 to 9.6 for the
    DCN and from 20.6 to 15.2 with text; compiling the loss too, and `max-autotune`, gained nothing.  Compilation takes
    8 to 15 seconds, and 1.5 where PyTorch finds what it compiled before.
    """
    kind, _, extra = name.partition(" ")
    torch.manual_seed(0)
    watch = Stopwatch(seconds)
    with np.load(folder / "rows.npz") as file:
        arrays = dict(file)
    features = feature_map(arrays, kind)
    rows, text = columns(arrays, features), np.load(folder / "text.npy") if extra == "text" else None
    watch.read()
    model = Peer(features, kind, text, "Dice" if extra == "dice" else "PReLU")
    model.optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    model.train()
    total, step = len(rows["clicked"]), 0
    whole = total // BATCH * BATCH
    while True:
        for batch in batches(rows, torch.randperm(total)[:whole], BATCH):
            model.train_step(batch)
            step += 1
            if watch.enough(step):
                return watch.run(whole // BATCH)


if __name__ == "__main__":
    print(json.dumps(asdict(speed(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))))
