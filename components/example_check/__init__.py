"""Statistics held against a schema, the last run's and the newest rows'; an anomaly stops the run."""
