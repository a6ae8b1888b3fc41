"""The layer between the kinds and Prefect: decorators, tasks, reports and events. One module or folder per kind."""
