"""The formats of what is stored: bytes in, bytes out; no process, no database."""
