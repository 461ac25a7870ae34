import pytest

from tests.leaderboard.board_records import write
from virtex import leaderboard


@pytest.fixture
def table(tmp_path):
    """The table of records; of more calls, of all their records."""

    def make(*records, **options):
        return leaderboard.make([write(tmp_path / "results", *records)], **options).table

    return make
