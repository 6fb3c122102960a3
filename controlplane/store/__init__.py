"""SQL, the only truth: one adapter for every port that remembers something."""

from controlplane.store.sql import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
