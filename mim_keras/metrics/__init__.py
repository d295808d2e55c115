"""Figures that ranking and retrieval are judged by."""
