"""What is measured, how, and (in `results/`) what was measured last."""
