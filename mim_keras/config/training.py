"""How a stage is trained."""

from __future__ import annotations

from dataclasses import dataclass

from mim_keras.config.mapping import require


@dataclass(frozen=True)
class TrainingConfig:
    """How a stage is trained; shared by all three."""

    epochs: int = 1
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: str = "constant"  # constant | cosine (falls to zero by the last step)
    warmup_steps: int = 0  # in which the rate rises from zero
    clip_norm: float = 1.0
    strategy: str = "one_device"  # one_device | mirrored | multi_worker (from TF_CONFIG)
    mixed_precision: str = "float32"  # float32 | mixed_float16 | mixed_bfloat16
    jit_compile: bool = False
    steps_per_execution: int = 1
    patience: int = 0  # of the ranker: epochs without a better GAUC on validation before stopping; 0: train all epochs
    seed: int = 7
    deterministic: bool = False  # the same numbers to the last bit each time, by operations that may be slower

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs must be at least 1", self.epochs, "Raise it.")
        require(self.batch_size >= 2, "batch_size must be at least 2", self.batch_size, "Raise it.")
        require(self.learning_rate > 0, "learning_rate must be positive", self.learning_rate, "Raise it.")
        require(self.seed >= 1, "seed must be at least 1", self.seed, "Any other number will do.")
        schedules = ("constant", "cosine")
        require(self.schedule in schedules, f"schedule must be one of {schedules}", self.schedule, "Choose one.")
        for name, what in (
            ("warmup_steps", "leaves it out"),
            ("clip_norm", "clips nothing"),
            ("patience", "never stops"),
        ):
            value = getattr(self, name)
            require(value >= 0, f"{name} is 0 or more", value, f"0 {what}.")
        require(
            self.steps_per_execution >= 1, "steps_per_execution is 1 or more", self.steps_per_execution, "Raise it."
        )
        strategies = ("one_device", "mirrored", "multi_worker")
        require(self.strategy in strategies, f"strategy must be one of {strategies}", self.strategy, "Choose one.")
        policies = ("float32", "mixed_float16", "mixed_bfloat16")
        require(
            self.mixed_precision in policies,
            f"mixed_precision is one of {policies}",
            self.mixed_precision,
            "Choose one.",
        )
