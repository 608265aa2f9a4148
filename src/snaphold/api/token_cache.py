"""A cache of the callers whose tokens were valid a few seconds ago."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from cachetools import TTLCache

from snaphold.identity.base import Caller

_TTL_S: Final = 5.0
_MAX_TOKENS: Final = 10_000


class TokenCache:
    """The callers of valid tokens, by the tokens' hashes, so that the identity backend is not asked at each request.

    A new version of the backend empties the cache, so that a revoked token is refused at once. Refusals are not cached.
    Use it in one event loop only.
    """

    def __init__(self) -> None:
        self._callers: TTLCache[bytes, Caller] = TTLCache(_MAX_TOKENS, _TTL_S)
        self._version: object = None

    async def get(self, token: str, version: object, validate: Callable[[], Awaitable[Caller]]) -> Caller:
        """The caller of a token. ``version``: the backend's, read before. ``validate``: asks the backend."""
        if version != self._version:
            self._callers.clear()
            self._version = version
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._callers.get(digest)
        if known is not None:
            return known
        caller = await validate()
        if version == self._version:  # otherwise the answer is older than a change seen meanwhile
            self._callers[digest] = caller
        return caller
