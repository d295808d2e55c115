"""A release → the folder that servers read."""
