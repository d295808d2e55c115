"""How a stage is trained: strategy, fit, progress."""
