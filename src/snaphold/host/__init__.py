"""Database servers on this machine: create, start, stop, adopt a restored one, and what is in them."""
