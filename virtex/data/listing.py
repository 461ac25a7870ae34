"""Former place of helpers that are in ``virtex.files`` and ``virtex.text`` now."""

from virtex.files import (
    CONTROL,
    Listing,
    is_file,
    is_folder,
    is_path_below,
    list_folder,
    read_file,
    require_file,
)
from virtex.files import describe_folder as contents
from virtex.files import describe_missing as say_missing
from virtex.files import find_missing as missing_files
from virtex.text import is_encodable as is_text
from virtex.text import join_first as some_of
from virtex.text import printable as shown

__all__ = ["CONTROL", "Listing", "contents", "is_file", "is_folder", "is_path_below", "is_text"]
__all__ += ["list_folder", "missing_files", "read_file", "require_file", "say_missing", "shown"]
__all__ += ["some_of"]
