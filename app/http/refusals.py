"""Answers to what never becomes a request: bytes that are no HTTP, too many, or too late."""

from __future__ import annotations

import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException

from handlers import problems
from openapi.responses import encode_headers

logger = structlog.get_logger()

LINES_PER_SECOND: Final = 10
"""Strangers could fill the log with what costs them a few bytes."""


class OccasionalLog:
    """Logs an event that may come in large numbers: a few lines a second, which tell how many were left out."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def warning(self, **fields: Any) -> None:
        if (second := int(time.monotonic())) != self._second:
            self._second, self._lines = second, 0
        if self._lines == LINES_PER_SECOND:
            self._left_out += 1
            return
        logger.warning(self._event, **fields, left_out=self._left_out)
        self._lines, self._left_out = self._lines + 1, 0


class Refusals:
    """Makes answers that the server gives by itself: problem documents, after which the connection is closed."""

    def __init__(self, security_headers: Collection[tuple[bytes, bytes]]) -> None:
        self._headers = dict(security_headers)
        self._log = OccasionalLog("request_refused")

    def answer(self, error: HTTPException, request_id: str, headers: Collection[tuple[bytes, bytes]]) -> bytes:
        """Makes the bytes of an answer, with `headers` and the security headers, and logs it."""
        self._log.warning(request_id=request_id, status=error.status_code)
        response = problems.answer({"state": {"request_id": request_id}}, error)
        fields = {
            **dict(headers),
            **self._headers,
            **dict(encode_headers(response)),
            b"x-request-id": request_id.encode(),
            b"content-length": b"%d" % len(response.body),
            b"connection": b"close",
        }
        lines = b"".join([b"%s: %s\r\n" % field for field in fields.items()])
        phrase = HTTPStatus(error.status_code).phrase.encode()
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (error.status_code, phrase, lines, response.body)
