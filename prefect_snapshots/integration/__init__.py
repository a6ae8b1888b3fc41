"""The layer between the kinds and Prefect: decorators, tasks, reports and events, one module or folder a kind."""
