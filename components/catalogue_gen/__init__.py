"""Items of the catalogue, checked, as tf.Examples."""
