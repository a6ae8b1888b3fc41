"""The parts of an open repository, as commits, readers and maintenance use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .catalog import Catalog
from .contents import ChunkReader, Store
from .index import Index
from .location import Location
from .packs import PackIds
from .recognition import ChunkNames
from .sealing import Sealer


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts of an open repository."""

    id: str
    config: dict[str, Any]
    secret: bytes | None
    password_name: str
    sealer: Sealer
    catalog: Catalog
    index: Index
    store: Store
    reader: ChunkReader

    def apart(self, *, writing: bool) -> Opened:
        """Return the same repository with a separate catalog and index, which other threads do not refresh."""
        return assemble(self.store.location, self.config, self.secret, self.password_name, self.sealer, not writing)


def assemble(
    location: Location,
    config: dict[str, Any],
    secret: bytes | None,
    password_name: str,
    sealer: Sealer,
    read_only: bool,
) -> Opened:
    """Assemble the parts. They read nothing before their first use."""
    catalog = Catalog(location, sealer, read_only=read_only)
    index = Index(location, sealer, read_only=read_only)
    store = Store(location, sealer, index, lambda: catalog.state.condemned, ChunkNames(sealer), PackIds())
    return Opened(config["id"], config, secret, password_name, sealer, catalog, index, store, ChunkReader(store))
