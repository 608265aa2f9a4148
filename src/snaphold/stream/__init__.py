"""Streams: the path of a tool's output to the store, and back."""
