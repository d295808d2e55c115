"""Where embeddings live, by item and encoder version."""
