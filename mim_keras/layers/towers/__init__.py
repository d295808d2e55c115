"""Towers of the item encoder: each turns one input of an item into features."""

from mim_keras.layers.towers.color_histogram import ColorHistogram
from mim_keras.layers.towers.drop_masked_tokens import DropMaskedTokens
from mim_keras.layers.towers.embedding_tower import EmbeddingTower
from mim_keras.layers.towers.image_tower import ImageTower
from mim_keras.layers.towers.lsa_tower import LSATower
from mim_keras.layers.towers.text_tower import TextTower

__all__ = ["ColorHistogram", "DropMaskedTokens", "EmbeddingTower", "ImageTower", "LSATower", "TextTower"]
