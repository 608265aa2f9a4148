"""snaphold: on-demand physical backups of databases, asked for over HTTP."""

__version__ = "0.1.0"
