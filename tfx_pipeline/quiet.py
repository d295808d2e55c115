"""Keeps TensorFlow's start-up messages off the terminal.

TensorFlow 2.21 writes what it found of CUDA and oneDNN to standard error while it is imported, whatever
`TF_CPP_MIN_LOG_LEVEL` says.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
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
    """Finds TensorFlow, the first time that anything asks for it, with a loader that is quiet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader  # as if this one had never been
        with filtered_stderr():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # looks for CUDA
        logging.getLogger("tensorflow").setLevel(logging.ERROR)


def quiet_tensorflow() -> None:
    """Call before TensorFlow is imported; it is not imported by this."""
    if "tensorflow" not in sys.modules and not any(isinstance(one, _QuietFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())


@contextmanager
def filtered_stderr() -> Iterator[None]:
    """While it lasts, standard error is kept; afterwards what is no noise of TensorFlow's is written."""
    try:
        kept = os.dup(2)
    except OSError:  # a daemon without standard error
        yield
        return
    _flush()
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 2)
            written.seek(0)
            for line in written:
                if not _NOISE.match(line):
                    os.write(kept, line)
            os.close(kept)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
