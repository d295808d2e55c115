"""Contrastive losses and where their negatives come from."""
