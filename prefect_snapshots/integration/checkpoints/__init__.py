"""Checkpoints in Prefect: the task that `@checkpointed` makes, and the reports of its runs."""
