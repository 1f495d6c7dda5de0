"""``python -m lattica`` is the `lattica` command."""

from lattica.cli import main

main()
