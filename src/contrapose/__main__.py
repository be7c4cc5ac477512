"""``python -m contrapose``."""

from contrapose.cli import main

main()
