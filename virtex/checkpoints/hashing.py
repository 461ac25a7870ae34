"""Former place of ``virtex.files.sha256_of``."""

from virtex.files import sha256_of as sha256_of
