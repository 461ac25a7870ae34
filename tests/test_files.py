"""A file that is written is the old one or the whole new one, and errors are what they are."""

import pytest
import torch

from virtex.errors import UserError
from virtex.files import replace_file


class Interrupted:
    """A file in which an error comes as its content is written, as a signal's may anywhere."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def write(self, content):
        if len(content) > 1000:
            raise self.error
        return self.file.write(content)

    def flush(self):
        self.file.flush()


@pytest.mark.parametrize("error", [UserError("a worker died"), KeyboardInterrupt()])
def test_what_comes_within_torch_save_is_no_error_of_its_own(tmp_path, error):
    path = tmp_path / "model.pth"
    path.write_text("old")
    content = {"weight": torch.zeros(10_000)}
    with pytest.raises(type(error)):
        replace_file(path, lambda file: torch.save(content, Interrupted(file, error)))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
