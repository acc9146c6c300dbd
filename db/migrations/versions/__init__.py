"""The versions of the schema, in the order of their names."""
