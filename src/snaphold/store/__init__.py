"""Object stores, which hold the backups: one container for each account (contract, section 9)."""
