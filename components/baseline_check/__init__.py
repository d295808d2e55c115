"""The ranker against click rates and gradient boosting on the same rows."""
