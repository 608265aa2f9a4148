"""The process beside the databases: it claims, acts, reports and answers."""
