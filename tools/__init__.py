"""What a maintainer runs, from the repository's folder: ``python -m tools.<name>``, or ``make``."""
