"""A process that checks signatures, so that the one that has documents can do something else meanwhile.

Run by `lattica.store.signatures` as a file, not as a module: it needs libsodium, and nothing of Lattica. Its standard
input is a socket. A question is its length in bytes, 4 of them, and for each signature the length, 4 bytes, of what
follows: the public key, 32 bytes, the signature, 64 bytes, and what was signed. The answer is the index of the first
signature that is wrong, 4 bytes, or `ALL_GOOD`. It ends with the socket.
"""

from __future__ import annotations

import io
import signal
import socket
from typing import Final

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

LENGTH: Final = 4
KEY: Final = 32
ALL_GOOD: Final = 2**32 - 1


def first_wrong(question: memoryview) -> int:
    """The index of the first signature that is wrong, or `ALL_GOOD`."""
    at = index = 0
    while at < len(question):
        start = at + LENGTH
        at = start + int.from_bytes(question[at:start])
        key = bytes(question[start : start + KEY])
        try:
            crypto_sign_open(bytes(question[start + KEY : at]), key)
        except BadSignatureError:
            return index
        index += 1
    return ALL_GOOD


def serve(asked: io.BufferedReader, connection: socket.socket) -> None:
    """Answer until the socket is closed."""
    while len(length := asked.read(LENGTH)) == LENGTH:
        question = asked.read(int.from_bytes(length))
        connection.sendall(first_wrong(memoryview(question)).to_bytes(LENGTH))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it goes to all; the socket's end is for us
    with socket.socket(fileno=0) as inherited, inherited.makefile("rb") as reader:
        serve(reader, inherited)
