"""The formats of stored objects. These modules convert bytes; they start no process and use no database."""
