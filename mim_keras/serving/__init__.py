"""SavedModels of the encoder and the ranker, and what lies beside their graphs."""
