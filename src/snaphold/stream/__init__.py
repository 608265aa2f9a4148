"""Streams: a tool's output on its way to the store, and back."""
