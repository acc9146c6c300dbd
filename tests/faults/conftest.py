"""A PostgreSQL that may be killed, and a table of what came of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from db.schema.migrate import migrate
from faults import attackers, ledger
from faults.postgres import Postgres
from support.database import new_database


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server that tests kill and start again: each leaves it running."""
    with Postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own, with the schema."""
    with new_database(postgres.url) as url:
        migrate(url)
        yield url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each scenario, with its counts."""
    for name, table in (("faults", ledger), ("attackers", attackers)):
        if table.REPORT:
            widths = [max(map(len, column)) for column in zip(table.COLUMNS, *table.REPORT, strict=True)]
            terminalreporter.section(name)
            for first, *rest in (table.COLUMNS, *table.REPORT):
                cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
                terminalreporter.write_line("  ".join((first.ljust(widths[0]), *cells)))
