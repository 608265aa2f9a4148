"""Other regions as this one sees them: their APIs and their stores, asked over HTTP (snaphold.protocol)."""
