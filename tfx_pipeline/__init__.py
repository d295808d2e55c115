"""The graph and its settings, run functions, runners, importers and the command line."""

import components  # noqa: F401  before TensorFlow: says there which Keras the libraries beside ours get
