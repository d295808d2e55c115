"""Pairs that C-SFT learns from, out of the training window only."""
