"""How a database gets its schema: Alembic's environment and the versions."""
