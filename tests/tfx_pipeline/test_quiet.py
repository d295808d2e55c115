"""What a terminal shows of TensorFlow: nothing."""

from __future__ import annotations

import subprocess
import sys

IMPORT = """
import os, sys
from tfx_pipeline.quiet import quiet_tensorflow
quiet_tensorflow()
assert "tensorflow" not in sys.modules
import tensorflow as tf
tf.constant(1) + 1
os.write(2, b"ours, by its descriptor\\n")
print("ours", file=sys.stderr)
"""


FAIL = """
import os
from tfx_pipeline.quiet import filtered_stderr
with filtered_stderr():
    os.write(2, b"I0000 noise\\nF0000 bad\\n")
    raise ValueError("here")
"""


def test_tensorflow_starts_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["ours, by its descriptor", "ours"]


def test_tensorflow_starts_without_standard_error() -> None:
    program = IMPORT.partition("os.write")[0] + "print(tf.add(1, 1))"
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c '{program}' 2>&-"], capture_output=True, text=True)
    assert "tf.Tensor(2" in done.stdout


def test_errors_are_shown() -> None:
    done = subprocess.run([sys.executable, "-c", FAIL], capture_output=True, text=True)
    assert "I0000" not in done.stderr
    assert "F0000 bad" in done.stderr
    assert "ValueError: here" in done.stderr


def test_a_reader_that_stops_is_no_error() -> None:
    command = f"{sys.executable} -m tfx_pipeline.cli --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("Usage:")
    assert done.stderr == ""
