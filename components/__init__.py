"""The TFX components this project adds, one folder each, with their work on Beam."""

import os

# TensorFlow Recommenders and tf.Transform are Keras 2 libraries; TensorFlow looks at this when it is first
# imported.  The models here use `import keras`, which is Keras 3 either way.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
