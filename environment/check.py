"""Imports every part that the project stands on, and says in one line that it works.

TFX wraps the import of each component in try/except and leaves ``None`` where one failed, so an import
alone proves nothing: each name is checked not to be ``None``.
"""

import os
import platform
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import apache_beam  # noqa: E402
import keras  # noqa: E402
import keras_hub  # noqa: E402
import keras_rs  # noqa: E402
import ml_metadata  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_data_validation  # noqa: E402
import tensorflow_model_analysis  # noqa: E402
import tensorflow_serving.apis.predict_pb2  # noqa: E402
import tensorflow_transform  # noqa: E402
import tfx  # noqa: E402
from tfx import v1 as tfx_v1  # noqa: E402

COMPONENTS = ("StatisticsGen", "SchemaGen", "ExampleValidator", "Transform", "Trainer", "Evaluator", "Pusher")
missing = [name for name in COMPONENTS if getattr(tfx_v1.components, name, None) is None]
if missing:
    sys.exit(f"setup  error: TFX could not import {', '.join(missing)}; delete .venv and run make again")
modules = (apache_beam, keras_hub, keras_rs, ml_metadata, tensorflow_data_validation, tensorflow_model_analysis)
assert all((*modules, tensorflow_transform, tensorflow_serving))
print(
    f"setup  python {platform.python_version()}, glibc {platform.libc_ver()[1]}, tensorflow {tf.__version__}, "
    f"keras {keras.__version__}, tfx {tfx.__version__}, beam {apache_beam.__version__}: all parts import",
    file=sys.stderr,
)
