"""Clients of other regions: of their APIs and of their stores, over HTTP (snaphold.protocol)."""
