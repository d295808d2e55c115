"""The whole catalogue through the encoder, into a snapshot."""
