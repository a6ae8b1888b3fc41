"""Snapshots in Prefect: the decorator, the tasks, saving in a run, and reports."""
