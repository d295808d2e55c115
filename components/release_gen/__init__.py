"""Encoder, snapshot, index, ranker and verdict → one release."""
