"""A package of somebody else, which brings prefect-snapshots a database."""
