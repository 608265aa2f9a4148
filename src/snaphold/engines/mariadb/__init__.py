"""Everything that is specific to MariaDB. ``engine.MariaDB`` implements the interface (engines/base.py)."""
