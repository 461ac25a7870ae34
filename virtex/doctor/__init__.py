"""Whether this machine and this Python can run the toolkit: ``python -m virtex.doctor``.

Imports the standard library alone, so that it answers where everything else is broken.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  where pip was not asked, nothing has said so yet
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"problem  Python  {version}, but virtex needs 3.10 or newer")
    print("         -> install one, and the toolkit with it: make setup PYTHON=python3.10")
    sys.exit(2)
