"""Impressions, checked and split in time's order, as tf.Examples."""
