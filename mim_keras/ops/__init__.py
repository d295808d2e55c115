"""Tensor functions without state, for every Keras backend unless stated otherwise."""
