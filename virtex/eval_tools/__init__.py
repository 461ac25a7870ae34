"""The command-line tools, one thin script a task: ``python -m virtex.eval_tools.NAME --help``.

In the repository they are run as ``python eval_tools/NAME.py``.
"""
