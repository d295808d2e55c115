"""TFX's Trainer with the further inputs that the three stages need."""
