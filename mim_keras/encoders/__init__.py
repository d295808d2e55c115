"""Content to vectors: an image tower, a text tower, and the item encoder that fuses them."""
