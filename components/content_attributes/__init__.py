"""Attributes of items that are learned from their content, and from what users clicked."""
