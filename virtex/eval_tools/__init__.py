"""Command-line tools, one thin script per command: ``python -m virtex.eval_tools.NAME --help``.

In the repository, run them as ``python eval_tools/NAME.py``.
"""
