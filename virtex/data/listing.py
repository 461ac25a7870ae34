"""Former place of helpers that are in ``virtex.files`` and ``virtex.text`` now."""

from virtex.files import CONTROL as CONTROL
from virtex.files import describe_folder as contents  # noqa: F401
from virtex.files import describe_missing as say_missing  # noqa: F401
from virtex.files import find_missing as missing_files  # noqa: F401
from virtex.files import is_file as is_file
from virtex.files import is_folder as is_folder
from virtex.files import is_path_below as is_path_below
from virtex.files import list_folder as list_folder
from virtex.files import read_file as read_file
from virtex.files import require_file as require_file
from virtex.text import is_encodable as is_text  # noqa: F401
from virtex.text import join_first as some_of  # noqa: F401
from virtex.text import printable as shown  # noqa: F401
