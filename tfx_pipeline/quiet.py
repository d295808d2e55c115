"""Keeps TensorFlow's start-up messages off the terminal.

TensorFlow 2.21 writes what it found of CUDA and oneDNN to standard error while it is imported, whatever
`TF_CPP_MIN_LOG_LEVEL` says.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

_NOISE = re.compile(rb"^(WARNING: All log messages before absl|[IW]\d{4} |E\d{4} .*cuda|To enable the following instr)")


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Imports TensorFlow, the first time that anything asks for it, without these messages."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "tensorflow":
            sys.meta_path.remove(self)
            with filtered_stderr():
                tensorflow = importlib.import_module(name)
                tensorflow.config.list_physical_devices()  # looks for CUDA
            logging.getLogger("tensorflow").setLevel(logging.ERROR)
        return None


def quiet_tensorflow() -> None:
    """Call before TensorFlow is imported; it is not imported by this."""
    if "tensorflow" not in sys.modules and not any(isinstance(one, _QuietFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """While it lasts, standard error is kept; afterwards what is no noise of TensorFlow's is written."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            written.seek(0)
            for line in written:
                if not _NOISE.match(line):
                    os.write(kept, line)
            os.close(kept)
