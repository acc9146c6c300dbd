"""The schema of a database: how it is created and upgraded, and what is checked before the service uses it.

version          which version a database has, and whether the service runs on it
migrate          creates, upgrades and downgrades the schema
fitness          whether a database can be ours
checks           what the service requires of a database
recommendations  what it recommends
citus            distributes the tables over the shards of Citus
engine           how these modules connect

Only `migrate` changes a database. A version is the number of a migration, such as `0002`; the table `alembic_version`
holds it.
"""
