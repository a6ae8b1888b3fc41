"""Snapshots in Prefect: the decorator, the tasks, how runs save, what they report."""
