"""Connections to the embedded server, gRPC's and REST's, on which a byte comes now and then."""

from __future__ import annotations

import socket
import threading
import time

from benchmarks.load import PREDICT

SLOW = 40  # connections of each slow kind
HANDSHAKE_SECONDS = 20
LONG = bytes([0, 0, 0, 3, 0]) + b"x" * 800  # a message of 768 bytes, behind its length


class SlowConnections:
    """Connections on which a byte comes now and then, open while entered."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

    def __init__(self, target: str, rest: int) -> None:
        port = int(target.rpartition(":")[2])
        length = b"POST /v1/models/a:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
        started = self.PREFACE + headers_frame(target)
        kinds = [
            (port, b"", self.PREFACE),
            (port, started, LONG),
            (rest, b"", length),
            (rest, length, b"[" * 900),
        ]
        self.sockets: list[tuple[socket.socket, bytes]] = []
        for where, first, rest_of_it in kinds:
            for _ in range(SLOW):
                connection = socket.create_connection(("127.0.0.1", where), 5)
                connection.sendall(first)
                self.sockets.append((connection, rest_of_it))
        self.closed = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)

    def __enter__(self) -> SlowConnections:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        for connection, _ in self.sockets:
            connection.close()

    def wait_for_the_handshake(self) -> None:
        """Until the server has closed those that did not greet it in time (ten seconds)."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        while self.closed < SLOW and time.monotonic() < deadline:
            time.sleep(0.1)

    def _drip(self) -> None:
        place, open_ones = 0, list(self.sockets)
        while not self._ended.wait(1.0):
            for one in list(open_ones):
                connection, data = one
                try:
                    connection.sendall(data[place : place + 1])
                except OSError:
                    open_ones.remove(one)
                    self.closed += 1
            place += 1


def headers_frame(target: str) -> bytes:
    """HTTP/2 HEADERS of a Predict call, none of it compressed, and the start of its DATA (RFC 9113, RFC 7541)."""

    def literal(name: bytes, value: bytes) -> bytes:
        return bytes([0, len(name)]) + name + bytes([len(value)]) + value

    fields = {b":method": b"POST", b":scheme": b"http", b":path": PREDICT.encode(), b":authority": target.encode()}
    fields |= {b"te": b"trailers", b"content-type": b"application/grpc"}
    block = b"".join(literal(name, value) for name, value in fields.items())
    head = len(block).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + block
    return head + (1_000).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1])
