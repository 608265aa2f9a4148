"""Engines: how a database's bytes are taken from a running server, and made a server again."""
