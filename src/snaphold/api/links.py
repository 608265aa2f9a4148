"""The URLs of resources, as clients of an endpoint see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from snaphold.objects import CONTAINER
from snaphold.schemas.base import Link

STORAGE_PREFIX: Final = "MossoCloudFS_"  # of an account's name in the paths of Cloud Files


@dataclass(frozen=True, kw_only=True)
class Links:
    """The URLs below one endpoint. ``endpoint``: scheme, host and port, without a slash at the end."""

    endpoint: str

    def database_api(self, account: str) -> str:
        """The account's databases endpoint."""
        return f"{self.endpoint}/v1.0/{quote(account)}"

    def storage(self, account: str) -> str:
        """The account's object storage endpoint."""
        return f"{self.endpoint}/v1/{STORAGE_PREFIX}{quote(account)}"

    def object(self, account: str, name: str) -> str:
        """A backup's ``locationRef``."""
        return f"{self.storage(account)}/{CONTAINER}/{quote(name)}"

    def of(self, account: str, path: str) -> list[Link]:
        """The links ``self`` and ``bookmark`` of the resource at ``path`` below the account."""
        return [
            Link(href=f"{self.database_api(account)}/{path}", rel="self"),
            Link(href=f"{self.endpoint}/{path}", rel="bookmark"),
        ]

    def next_page(self, path: str, query: Sequence[tuple[str, str]], marker: str | None) -> list[Link] | None:
        """The link to the page after ``marker``, with all other query parameters kept. None: there is no such page."""
        if marker is None:
            return None
        kept = [(key, value) for key, value in query if key != "marker"]
        return [Link(href=f"{self.endpoint}{quote(path)}?{urlencode([*kept, ('marker', marker)])}", rel="next")]
