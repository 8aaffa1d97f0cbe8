"""One request below a mirror's path: how the origin's answer must name things, so that clients come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cafs.core.proxying.address import Address
from cafs.core.proxying.head import Field
from cafs.core.proxying.mirror import Mirror, leads_away, rewrite_for_client


@dataclass(frozen=True, slots=True)
class MirroredSite:
    """See the module."""

    mirror: Mirror
    ours: str
    """``http://HOST:PORT`` as the client knows us."""

    def rewrite(self, fields: Sequence[Field], address: Address) -> list[Field]:
        """The fields of an answer to a request for ``address``."""
        return rewrite_for_client(fields, self.mirror, self.ours, address)

    def settles(self, method: str, location: str | None, address: Address) -> bool:
        """Whether a redirect is answered as if the content lay here.

        A hub tells a file's size and digest beside a redirect to its storage. A client that is shown only the
        former asks us for the file, and not the storage.
        """
        return method == "HEAD" and bool(location) and leads_away(location or "", self.mirror, address)
