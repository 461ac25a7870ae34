"""Found by Python at its start: a clock that jumps once a file is there, or after some looks at it.

As it is a machine's clock that somebody sets, all of Python's ways to ask for the time of day see
it; those to ask for how long something took do not.
"""

import datetime
import os
import time

SECONDS, FILE, LOOKS = os.environ.get("CLOCK_JUMPS", "0 / 0").split()
_time, _time_ns, _exists = time.time, time.time_ns, os.path.exists
looks = 0


def jumped():
    global looks
    looks += 1
    return float(SECONDS) if looks > int(LOOKS) and _exists(FILE) else 0.0


def now():
    return _time() + jumped()


def now_ns():
    return _time_ns() + int(jumped()) * 10**9


class Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(now(), tz)

    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(now(), datetime.timezone.utc).replace(tzinfo=None)

    @classmethod
    def today(cls):
        return cls.now()


class At:
    """A function of the time module that takes the seconds, or else now.

    No function, which a class that has it would call as its method: logging has such a one.
    """

    def __init__(self, function):
        self.function = function

    def __call__(self, seconds=None):
        return self.function(now() if seconds is None else seconds)


time.time, time.time_ns = now, now_ns
time.localtime, time.gmtime, time.ctime = At(time.localtime), At(time.gmtime), At(time.ctime)
datetime.datetime = Datetime
