"""`mim serve`: the embedded server, with tensorflow_model_server's flags."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click

from serving.embedded_server.options import IGNORED, UNSUPPORTED, ServerOptions
from tfx_pipeline.location import Location

if TYPE_CHECKING:
    from upath import UPath

LAST_SECONDS = 4.5
_M_ARENA_MAX = -8  # <malloc.h>
_at_exit = contextlib.ExitStack()


def _with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """A click option for each field of `ServerOptions`."""
    types = get_type_hints(ServerOptions)
    for option in reversed(dataclasses.fields(ServerOptions)):
        how: dict[str, Any] = {"default": option.default, "help": option.metadata["help"], "show_default": True}
        if types[option.name] is bool:  # as there: --flag, --flag=true, --flag=false
            how |= {"type": bool, "is_flag": False, "flag_value": "true"}
        elif option.name == "models":
            how |= {"type": Location(exists=True)}
        elif types[option.name] == Path | None:
            how |= {"type": click.Path(path_type=Path)}
        elif types[option.name] == int | None:
            how |= {"type": int}
        command = click.option(f"--{option.name}", **how)(command)
    for name in (*UNSUPPORTED, *IGNORED, "version"):
        command = click.option(f"--{name}", hidden=True, is_flag=False, flag_value="true", default=None)(command)
    return command


@click.command()
@_with_flags
@click.option(
    "--otlp_endpoint", metavar="http://HOST:PORT", help="Send a span of each gRPC call there; needs the extra `otel`."
)
def serve(otlp_endpoint: str | None, **flags: Any) -> None:
    """Serve models over TF Serving's gRPC and REST APIs: for development, tests and small loads.

    Production runs TensorFlow Serving itself, on the same folders and with the same flags. Not here: other
    platforms than tensorflow, GPUs.
    """
    _share_memory()
    for name, reason in UNSUPPORTED.items():
        if flags.pop(name) is not None:
            raise click.UsageError(f"--{name} is not supported: {reason}")
    if flags.pop("version") is not None:
        click.echo(f"mim serve, of TensorFlow Serving's API {metadata.version('tensorflow-serving-api')}")
        return
    for name, reason in IGNORED.items():
        if flags.pop(name) is not None:
            click.echo(f"--{name} changes nothing here: {reason}", err=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    models = flags["models"]
    if models is not None:
        if (models / "metadata.sqlite").exists():
            raise click.UsageError(f"--models is the root of runs; received {models}. Name {models / 'models'}")
        flags["models"] = Path(str(models))
    try:
        options = ServerOptions(**flags)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    provider = _tracer_provider(otlp_endpoint)
    with _ended_by_signal() as ended:
        if models is not None:
            options = dataclasses.replace(options, models=_local_models(models, options.file_system_poll_wait_seconds))
        _serve(options, provider, ended)


def _serve(options: ServerOptions, provider: Any | None, ended: threading.Event) -> None:
    """Serves until `ended`, then ends the process."""
    from serving.embedded_server.errors import ServingFault
    from serving.embedded_server.server import EmbeddedServer

    try:
        server = EmbeddedServer(options=options, tracer_provider=provider).start(cancelled=ended.is_set)
    except (ServingFault, ValueError) as error:
        if ended.is_set():
            _exit()
        raise click.ClickException(f"Failed to start server. Error: {error}") from error
    names = ", ".join(server.core.manager.available()) or "no model yet"
    rest = f", REST on {server.rest_address}" if server.rest_address else ""
    admin = f", reloads on {options.host}:{server.admin_port}" if options.admin_port is not None else ""
    click.echo(f"serving {names} on {server.address}{rest}{admin}", err=True)
    ended.wait()
    server.stop()
    if provider is not None:
        provider.shutdown()  # sends what is left
    _exit()


def _local_models(models: UPath, poll_seconds: float) -> Path:
    """The folder of `--models`; of one on an object store a copy, which follows it."""
    from serving.storage import is_local, to_local

    if is_local(models):
        return to_local(models)
    from serving.embedded_server.remote_models import RemoteModels

    folder = Path(_at_exit.enter_context(tempfile.TemporaryDirectory(prefix="mim-models-", ignore_cleanup_errors=True)))
    remote = RemoteModels(models, folder)
    if poll_seconds:
        remote.follow(poll_seconds)
        _at_exit.callback(remote.stop)
    return folder


def _tracer_provider(endpoint: str | None) -> Any | None:
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise click.UsageError(f"--otlp_endpoint is http://HOST:PORT or https://HOST:PORT; received {endpoint}")
    from serving.tracing import otlp_provider

    return otlp_provider("mim-serve", endpoint)


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM; `LAST_SECONDS` after it the process ends, whatever still runs then."""
    ended = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wait() -> None:
        if os.read(reader, 1):
            ended.set()
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    # A handler that set the event could wait for the event's own lock, which the code it interrupts may hold.
    signal.set_wakeup_fd(writer)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:  # where the server did not start
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)


def _exit() -> None:
    """Ends the process; a thread that loads a model inside TensorFlow cannot be asked to."""
    _at_exit.close()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _share_memory() -> None:
    """Two heaps for all threads to come: with one each, what a large request leaves behind stays with its thread."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
