"""The JSON of the API as types, one module for each resource: what clients send, and what they receive.

The modules depend on pydantic and on the models below them, not on the web framework or on the service, so that a
Python client can use the types that the API uses.
"""
