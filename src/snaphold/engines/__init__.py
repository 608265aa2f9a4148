"""Database engines behind one interface (``base``). ``mariadb`` is the only one; ``installed`` finds them."""
