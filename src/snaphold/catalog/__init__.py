"""The catalog: all SQL statements, and the migrations of the tables."""
