"""How a stage is trained: data, strategies, callbacks, checkpoints, warm start."""
