"""How a stage is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mim_keras.config.mapping import require, require_choices


@dataclass(frozen=True)
class TrainingConfig:
    """How a stage is trained.  All three stages have the same settings, with defaults of their own."""

    epochs: int = 1  # passes over the training data; 0: stages 1 and 2 leave the encoder as it is
    batch_size: int = 256  # of all replicas together
    learning_rate: float = 1e-3  # of Adam, at its highest
    schedule: Literal["constant", "cosine"] = "constant"  # cosine falls to zero at the last step
    warmup_steps: int = 0  # steps in which the learning rate rises from zero
    weight_decay: float = 0.0  # AdamW's, of kernels; biases, gains and embeddings are not decayed
    clip_norm: float = 1.0  # largest norm of all gradients together; 0 does not clip
    strategy: Literal["one_device", "mirrored", "multi_worker"] = "one_device"  # multi_worker reads TF_CONFIG
    mixed_precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"  # dtype policy of Keras
    jit_compile: bool = False  # whether XLA compiles the training step
    steps_per_execution: int = 1  # steps in one call of the compiled function
    patience: int = 0  # epochs without a better validation metric before the ranker stops; 0 trains all epochs
    monitor: Literal["gauc", "auc", "logloss"] = "gauc"  # that metric; of few users, logloss is the steadiest
    seed: int = 7  # of weights, shuffling and dropout
    deterministic: bool = False  # bitwise reproducible, by operations that may be slower

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs must be at least 0", self.epochs, "0 trains nothing.")
        require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size, "Raise it.")
        require(self.learning_rate > 0, "learning_rate must be positive", self.learning_rate, "Raise it.")
        require(self.seed >= 1, "seed must be at least 1", self.seed, "Choose another number.")
        effects = {
            "weight_decay": "decays nothing",
            "warmup_steps": "leaves warm-up out",
            "clip_norm": "does not clip",
            "patience": "never stops early",
        }
        for name, effect in effects.items():
            value = getattr(self, name)
            require(value >= 0, f"{name} must be 0 or more", value, f"0 {effect}.")
        steps = self.steps_per_execution
        require(steps >= 1, "steps_per_execution must be at least 1", steps, "Raise it.")
        require_choices(self)
