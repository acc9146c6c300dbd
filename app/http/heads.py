"""What the head of a request says about the request itself: its version, its host, where its body ends."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from starlette.exceptions import HTTPException

VERSIONS: Final = ("1.1", "1.0")

HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){0,255})(?::[0-9]{0,5})?"
)
"""A host and perhaps a port (RFC 9110, section 7.2); nothing, where the target has no authority."""

HOST_LIMIT_BYTES: Final = 512

FRAMING_FIELDS: Final = frozenset([b"host", b"content-length", b"transfer-encoding", b"expect"])
"""The fields that `read_framing` looks at, so that it need not look for them among all others."""


Framing = tuple[int, bool, bool]
"""The length of the body in bytes, whether it comes in chunks, and whether the client waits for 100 (Continue)."""


def read_framing(version: str, fields: list[tuple[bytes, bytes]]) -> Framing:
    """Reads those of a head's fields that are in `FRAMING_FIELDS`: how the request's body comes.

    Raises:
        HTTPException: 505 for another version than HTTP/1.1 and HTTP/1.0; 400 for several or invalid hosts, or none in
            HTTP/1.1 (RFC 9112, section 3.2); 400 or 501 for another transfer coding than `chunked` (section 6.1).
    """
    if version not in VERSIONS:
        raise HTTPException(505)
    hosts, length_bytes, is_chunked, expects_continue = 0, 0, False, False
    for name, value in fields:
        if name == b"host":
            hosts += 1
            if len(value) > HOST_LIMIT_BYTES or not _is_host(value):
                raise HTTPException(400)
        elif name == b"content-length":
            length_bytes = int(value)
        elif name == b"transfer-encoding":
            _check_coding(version, value)
            is_chunked = True
        elif name == b"expect" and value.lower() == b"100-continue" and version == "1.1":
            expects_continue = True
    if hosts > 1 or (not hosts and version == "1.1"):
        raise HTTPException(400)
    return length_bytes, is_chunked, expects_continue


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return HOST.fullmatch(value) is not None


def _check_coding(version: str, value: bytes) -> None:
    *others, last = value.lower().split(b",")
    # The parser refuses a second `chunked`, and a Content-Length beside it.
    if version == "1.0" or last.strip() != b"chunked":
        raise HTTPException(400)
    if others:
        raise HTTPException(501)
