"""One page that tells of a run."""
