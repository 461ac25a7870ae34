"""``python -m virtex COMMAND …`` is ``virtex COMMAND …``."""

from virtex.cli import main

if __name__ == "__main__":
    main()
