"""Serving: the client, the embedded server and the Representation Center.  Knows SavedModels and snapshots only."""
