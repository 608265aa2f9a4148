"""The record: every statement of SQL, and the migrations of its tables."""
