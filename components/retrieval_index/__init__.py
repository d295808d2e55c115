"""Nearest neighbours over a snapshot, as a SavedModel."""
