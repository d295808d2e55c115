"""The three stages train under Keras' JAX backend on a machine that has no TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SCRIPT = """
import sys
for name in ("tensorflow", "tensorflow_text"):
    sys.modules[name] = None  # an import of it fails
import json
from benchmarks.accelerator import ciubm_step, csft_step, measure, pretrain_step
print(json.dumps([measure(make, "tiny", 1, 0.01, 1e12) for make in (pretrain_step, csft_step, ciubm_step)]))
"""


def test_a_step_of_each_stage() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [row["stage"] for row in rows] == ["pretraining", "csft", "ciubm"]
    assert all(row["samples_per_second"] > 0 and row["million_operations_a_sample"] > 0 for row in rows)
