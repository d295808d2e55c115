"""What each part of the method is worth: variants of the settings, trained on the same data with the same seeds."""
