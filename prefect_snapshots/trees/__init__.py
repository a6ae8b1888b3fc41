"""Trees: scan, store, check and write directories of files.

Artifacts (folders) and backups (directories and dumps) share this layer. It uses the repository, and knows nothing
about artifacts and backups.
"""
