"""``python -m snaphold`` is ``snaphold``."""

from snaphold.cli import main

main()
