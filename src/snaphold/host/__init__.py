"""The database servers of this machine: their records, provisioning, lifecycle and observation."""
