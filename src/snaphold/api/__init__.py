"""The HTTP API: parses and validates each request once, calls the service, and answers with JSON.

The package itself has the routes of clients, ``hosts`` those of hosts' agents, and ``peers`` those of other regions.
``create_app`` builds the application of one region.
"""

from snaphold.api.app import create_app, described_api
from snaphold.api.request_context import KnownPeers
from snaphold.api.stores import ObjectReader

__all__ = ["KnownPeers", "ObjectReader", "create_app", "described_api"]
