"""Where the bytes of backups are kept: objects in one container an account (contract, section 9)."""
