"""What a served model takes, as it says itself: requests are checked before they are sent.

TensorFlow Serving checks names alone; a wrong dtype or shape fails inside the graph, with the runtime's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import messages
from serving.tensors import TYPE_NAMES


class SignatureError(ValueError):
    """A request that the served model cannot take."""


@dataclass(frozen=True)
class InputSpec:
    """One input.

    Attributes:
        dtype: NumPy's name of it; `string` for text.
        shape: With None for any size; None where even the rank is free.
        optional: Whether it may be left out.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    optional: bool = False


@dataclass(frozen=True)
class Signatures:
    """The signatures of one version of a model: name → alias → input."""

    model: str
    version: int
    inputs: Mapping[str, Mapping[str, InputSpec]]

    @staticmethod
    def of(response: Any) -> Signatures:
        """From a GetModelMetadataResponse."""
        found = messages.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        inputs = {
            name: {alias: _tensor(info, alias in definition.defaults) for alias, info in definition.inputs.items()}
            for name, definition in found.signature_def.items()
        }
        return Signatures(response.model_spec.name, response.model_spec.version.value, inputs)

    def check(self, signature: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuses what the signature cannot take.

        Raises:
            SignatureError: a name, a dtype or a shape.
        """
        where = f"{self.model} version {self.version}, signature {signature!r}"
        wanted = self.inputs.get(signature or "serving_default")
        if wanted is None:
            known = ", ".join(sorted(name for name in self.inputs if not name.startswith("__")))
            raise SignatureError(f"{where}: there is none of that name; the model has {known}")
        needed = {alias for alias, tensor in wanted.items() if not tensor.optional}
        missing, extra = sorted(needed - set(arrays)), sorted(set(arrays) - set(wanted))
        if missing or extra:
            parts = [f"missing: {', '.join(missing)}"] if missing else []
            parts += [f"not taken: {', '.join(extra)}"] if extra else []
            raise SignatureError(f"{where} takes {', '.join(sorted(wanted))}; {'; '.join(parts)}")
        for alias, array in arrays.items():
            tensor = wanted[alias]
            dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
            if dtype != tensor.dtype:
                raise SignatureError(f"{where}: {alias} must be {tensor.dtype}; received {dtype}")
            if not _fits(array.shape, tensor.shape):
                shape = "[" + ", ".join("any" if size is None else str(size) for size in tensor.shape or ()) + "]"
                raise SignatureError(f"{where}: {alias} must have the shape {shape}; received {list(array.shape)}")


def _tensor(info: Any, optional: bool) -> InputSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return InputSpec(TYPE_NAMES.get(info.dtype, str(info.dtype)), sizes, optional)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(w is None or w == s for s, w in zip(shape, wanted, strict=True))
