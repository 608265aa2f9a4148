"""MariaDB: everything that the project knows about it."""
