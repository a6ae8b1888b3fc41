"""Checkpoints in Prefect: the task of `@checkpointed`, and what its runs report."""
