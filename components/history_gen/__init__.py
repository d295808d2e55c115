"""Ranking examples: each impression with the user's history as it was at that moment."""
