"""How a command reaches a server: certificates and a token, as options of the command line."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_LOCAL = ("localhost", "127.", "[::1]", "unix:")


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--tls…` and `--token_file`; the command takes them as one keyword argument `connection`, which holds the
    arguments `tls` and `metadata` of a client."""

    @click.option("--tls", "use_tls", is_flag=True, help="TLS, with the system's authorities unless --tls_root.")
    @click.option("--tls_root", type=_FILE, help="PEM file of the authority that signed the server's certificate.")
    @click.option("--tls_key", type=_FILE, help="PEM file of the client's own key, for mTLS.")
    @click.option("--tls_certificate", type=_FILE, help="PEM file of its certificate.")
    @click.option("--tls_server_name", default="", help="The name in the server's certificate, where it differs.")
    @click.option("--token_file", type=_FILE, envvar="MIM_TOKEN_FILE", help="A token, sent as `Bearer`.")
    @functools.wraps(command)
    def with_connection(
        *arguments: Any,
        use_tls: bool,
        tls_root: Path | None,
        tls_key: Path | None,
        tls_certificate: Path | None,
        tls_server_name: str,
        token_file: Path | None,
        **others: Any,
    ) -> Any:
        from serving.channel import Tls

        tls = None
        if use_tls or tls_root or tls_key or tls_certificate:
            root, key, certificate = (_bytes(file) for file in (tls_root, tls_key, tls_certificate))
            tls = Tls(root, key, certificate, tls_server_name)
        servers = others.get("servers") or (others.get("server") or "",)
        if token_file is not None and tls is None and not all(server.startswith(_LOCAL) for server in servers):
            where = ", ".join(servers)
            raise click.UsageError(
                f"a token is sent over TLS, or to this machine; received --server {where}. Add --tls"
            )
        metadata = [("authorization", f"Bearer {token_file.read_text().strip()}")] if token_file is not None else []
        return command(*arguments, connection={"tls": tls, "metadata": metadata}, **others)

    return with_connection


def _bytes(file: Path | None) -> bytes:
    return b"" if file is None else Path(os.fspath(file)).read_bytes()
