"""Trees: directories of files, and how they are scanned, stored, checked and written.

This layer is shared by artifacts (folders) and backups (directories and dumps). It knows the repository, and neither
of them.
"""
