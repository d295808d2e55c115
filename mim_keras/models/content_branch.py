"""The content head of a ranker as a model of its own, for warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mim_keras.models.base import StageModel
from mim_keras.models.ciubm import Outputs, Ranker


@keras.saving.register_keras_serializable("mim")
class ContentBranch(StageModel):
    """The content outputs of a ranker, trained before the ids of targets and users: their embeddings overfit after
    about an epoch, content does not.

    The constructor freezes the layers of the ranker that its content head does not depend on; `release` unfreezes them.

    Args:
        ranker: A ranker with content.
        frozen: Which of `ranker.layers_outside_content_head()` to freeze and release; None: those that are trainable.

    Returns:
        The outputs whose name starts with `content_ctr`.

    Example:
        >>> import numpy as np
        >>> from mim_keras.config import preset
        >>> from mim_keras.layers import ItemTableData
        >>> from mim_keras.models import ContentBranch, VocabularySizes, make_ranker
        >>> data = ItemTableData.from_items(np.eye(4, dtype="float32"), np.ones(4, bool), [["a"]] * 4, np.arange(4))
        >>> branch = ContentBranch(make_ranker(preset("tiny").ciubm, VocabularySizes(users=3), data))
        >>> len(branch.trainable_variables)
        13
        >>> branch.release()

    Source: MAKE (2407.19467).
    """

    config_names = ("frozen",)
    config_parts = ("ranker",)

    def __init__(self, ranker: Ranker, frozen: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ranker = ranker
        self.outputs_of_content = [name for name in ranker.default_losses() if name.startswith("content_ctr")]
        if not self.outputs_of_content:
            raise ValueError(
                "a ContentBranch needs a ranker with content; received one without. Set ciubm.use_content."
            )
        self.primary_output = self.outputs_of_content[0]
        layers = ranker.layers_outside_content_head()
        found = [index for index, layer in enumerate(layers) if layer.trainable]
        self.frozen = tuple(found if frozen is None else frozen)
        self._set_trainable(False)
        self.build_from_signature()

    def build(self, input_shape: Any = None) -> None:
        self.built = True  # the ranker built itself

    def release(self) -> None:
        """Makes trainable again what the constructor froze."""
        self._set_trainable(True)

    def _set_trainable(self, value: bool) -> None:
        layers = self.ranker.layers_outside_content_head()
        for index in self.frozen:
            layers[index].trainable = value

    def call(self, inputs: dict[str, Any], training: bool = False) -> Outputs:
        outputs = self.ranker(inputs, training=training)
        return {name: outputs[name] for name in self.outputs_of_content}

    def default_losses(self) -> dict[str, Any]:
        losses = self.ranker.default_losses()
        return {name: losses[name] for name in self.outputs_of_content}

    def rowwise_options(self) -> dict[str, Any]:
        return self.ranker.rowwise_options()

    def input_signature(self) -> Any:
        return self.ranker.input_signature()
