"""Builds the processes of the service: the API, the worker, the agent, and what the one-off commands work on.

Each module builds one thing from the settings and the state directory. `cli` parses flags, calls these modules and
prints; nothing else imports them. `wiring.agent` imports nothing of the catalog.
"""
