"""Databases that a test of this room may change, and both ways to send a statement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from db.schema.migrate import migrate
from support.database import new_database


@pytest.fixture(params=[True, False], ids=["prepared", "not-prepared"])
def prepare(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def own_database(cluster_url: str) -> Iterator[str]:
    """A database with the schema, for this test alone."""
    with new_database(cluster_url) as url:
        migrate(url)
        yield url
