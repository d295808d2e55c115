"""Clusters of pictures and of texts, as attributes of the items."""
