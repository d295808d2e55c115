"""The peers of `benchmarks/train.py` and `benchmarks/peers.py`: FuxiCTR's published layers, loader and training step,
as its own models put them together; runs where `make peer` put PyTorch.

    peer_models.py din|dcn ROWS.npz SECONDS

As its defaults and the published comparisons have them: Adam 1e-3, gradients clipped to a norm of 10, ids of 16,
hidden layers of 256, 128 and 64; DIN's activation unit one layer of 64 with Dice; three full cross layers beside the
hidden ones, over the mean of the history.  Frozen vectors of text, where there are any, go through one learned map to
16 numbers, of the item and, in the mean, of the history.
"""

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import CrossNetV2, DIN_Attention, FeatureEmbeddingDict, MaskedAveragePooling, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import nn
from torch.nn import functional

BATCH, DIM, WARM_STEPS, CLIP = 1024, 16, 20, 10.0
HIDDEN = [256, 128, 64]


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
    """

    def __init__(self, features: FeatureMap, kind: str, text: np.ndarray | None = None) -> None:
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
            self.attention = DIN_Attention(DIM, attention_units=[64], hidden_activations="Dice")
            self.deep = MLP_Block(width, HIDDEN, output_dim=1, output_activation=self.output_activation)
        else:
            self.cross, self.deep = CrossNetV2(width, 3), MLP_Block(width, HIDDEN)
            self.out = nn.Linear(width + HIDDEN[-1], 1)
        self.compile("adam", "binary_crossentropy", 1e-3)
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


def speed(kind: str, file: str, seconds: float) -> dict[str, float]:
    """`rows_per_second` of training, `rows` of an epoch, and `reading`, the seconds that loading the file took."""
    torch.manual_seed(0)
    features = feature_map(np.load(file), kind)
    model = Peer(features, kind)
    model.train()
    begun = time.monotonic()
    loader = NpzDataLoader(features, file, batch_size=BATCH, shuffle=True)
    loading = time.monotonic() - begun
    rows = len(loader.dataset) // BATCH * BATCH
    step, started = 0, 0.0
    while True:
        for batch in loader:
            if len(batch["clicked"]) < BATCH:
                continue
            model.train_step(batch)
            step += 1
            if step == WARM_STEPS:
                started = time.monotonic()
            elif started and time.monotonic() - started > seconds:
                found = (step - WARM_STEPS) * BATCH / (time.monotonic() - started)
                return {"rows_per_second": found, "reading": loading, "rows": rows}


if __name__ == "__main__":
    print(json.dumps(speed(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
