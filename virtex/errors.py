"""The one kind of error a user can mend."""


class UserError(Exception):
    """Something the user must mend, said in plain words: what, where, what to do.

    Tools print it on stderr and leave with exit status 2, without a traceback. Library
    functions raise it (or a subclass) with nothing half-written behind them.
    """
