"""The API of hosts' agents, ``/agent/v1`` (``snaphold.protocol``). It is not for clients."""
