"""The API of other regions, ``/peer/v1`` (``snaphold.protocol``, docs/reference/peer-api.md). It is not for clients."""
