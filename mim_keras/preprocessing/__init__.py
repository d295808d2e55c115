"""From raw items to the inputs of the item encoder.  The same TensorFlow operations run in training and in serving."""
