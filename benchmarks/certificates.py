"""Keys and certificates of an hour, for tests and measurements of TLS."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Pair = tuple[Any, Any]


def certificate(name: str, signer: Pair | None = None) -> Pair:
    """(key, certificate) for `name`, signed by another or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[1].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    return key, built.sign(signer[0] if signer else key, hashes.SHA256())


def pem(pair: Pair) -> tuple[bytes, bytes]:
    """(key, certificate) as text."""
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = pair[0].private_bytes(serialization.Encoding.PEM, *kind)
    return key, pair[1].public_bytes(serialization.Encoding.PEM)


def ssl_config(path: Path, server: Pair, authority: Pair, verify: bool) -> Path:
    """Writes TensorFlow Serving's SSLConfig."""
    key, own = (text.decode().replace("\n", "\\n") for text in pem(server))
    ca = pem(authority)[1].decode().replace("\n", "\\n")
    path.write_text(f'server_key: "{key}" server_cert: "{own}" custom_ca: "{ca}" client_verify: {str(verify).lower()}')
    return path


class Certificates:
    """An authority, a server `localhost` and a client that it vouches for, and a stranger to them all."""

    def __init__(self, folder: Path) -> None:
        self._authorities = {"own": certificate("authority"), "stranger": certificate("stranger")}
        self._clients = {name: certificate("client", signer) for name, signer in self._authorities.items()}
        own = self._authorities["own"]
        self.ssl_config = ssl_config(folder / "ssl.config", certificate("localhost", own), own, verify=True)

    def channel(self, root: str = "own", client: str | None = "own") -> grpc.ChannelCredentials:
        """Of a caller who trusts `root` and shows what `client` vouches for."""
        key, own = pem(self._clients[client]) if client else (None, None)
        return grpc.ssl_channel_credentials(pem(self._authorities[root])[1], key, own)
