"""The HTTP edge: a request is parsed and checked in form once, handed to the service, and answered as JSON.

``create_app`` builds one region's application. No SQL, no bytes of backups but those that a reader hands over.
"""

from snaphold.api.app import create_app, described_api
from snaphold.api.context import KnownPeers, ObjectReader

__all__ = ["KnownPeers", "ObjectReader", "create_app", "described_api"]
