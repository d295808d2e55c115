"""Masked tokens removed from a text, for encoders that read no mask."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import Configurable, TracedSpec, check_rank


@keras.saving.register_keras_serializable("mim")
class DropMaskedTokens(TracedSpec, Configurable, keras.layers.Layer):
    """Token ids without the masked ones: those after them move up, and padding fills the row.

    The end token always stays, since a CLIP text encoder reads its output there.

    Args:
        end: Id of the end token.
        pad: Id of padding; may equal `end`.
        length: Columns of the output; None: those of the input.

    Call arguments:
        token_ids: int32 [B, T].
        padding_mask: [B, T], 0 where a token is masked or padding.

    Returns:
        int32 [B, length].

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers.towers import DropMaskedTokens
        >>> layer = DropMaskedTokens(end=8, pad=0)
        >>> layer(np.array([[7, 1, 2, 8]]), padding_mask=np.array([[1, 0, 1, 1]])).numpy().tolist()
        [[7, 2, 8, 0]]
    """

    config_names = ("end", "pad", "length")

    def __init__(self, end: int, pad: int, length: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.end, self.pad, self.length = end, pad, length

    def build(self, token_ids_shape: Any, padding_mask_shape: Any = None) -> None:
        check_rank(self, "token_ids", token_ids_shape, "batch tokens")

    def call(self, token_ids: Any, padding_mask: Any) -> Any:
        keep = ops.logical_or(ops.cast(padding_mask, "bool"), ops.equal(token_ids, self.end))
        columns = ops.shape(token_ids)[1]
        position = ops.arange(columns)[None, :]
        order = ops.argsort(ops.where(keep, position, position + columns), axis=1)  # (B, T): kept tokens first
        kept_tokens = ops.take_along_axis(ops.where(keep, token_ids, self.pad), order, axis=1)
        if self.length is None:
            return kept_tokens
        return ops.pad(kept_tokens, [[0, 0], [0, self.length]], constant_values=self.pad)[:, : self.length]

    def compute_output_shape(self, token_ids_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (token_ids_shape[0], token_ids_shape[1] if self.length is None else self.length)
