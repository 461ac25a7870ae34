"""The packaged detection protocols, and custom ones defined by a Detectron2 YAML file.

The settings of each packaged protocol are VirTex's (arXiv 2006.06666, appendix A) and MoCo's.
"""

import difflib
import hashlib
import os
from pathlib import Path

from virtex.errors import UserError
from virtex.protocols import Protocol, choose_protocol
from virtex.tasks import TASKS
from virtex.text import escape

PROTOCOLS: dict[str, dict[str, Protocol]] = {
    name: dict(TASKS[name].protocols) for name in ("coco", "lvis", "voc")
}


def packaged_protocol(task: str, name: str | None = None) -> Protocol:
    """The protocol of a task by its short name; the task's default for None.

    Raises:
        UserError: the task has no protocol of that name.
    """
    return choose_protocol(PROTOCOLS[task], task, name)


def protocol_from_config(config: str) -> Protocol:
    """The protocol that a Detectron2 YAML file defines: a path, or a name in Detectron2's zoo.

    A file that is one of the packaged protocols is that protocol. Any other is named after
    the file, and versioned by a hash of its text, so that an edited file is another protocol.

    Raises:
        UserError: there is no such file.
    """
    path = Path(config)
    if not os.path.isfile(config):
        path = find_in_detectron2_zoo(config)
    for protocol in (p for named in PROTOCOLS.values() for p in named.values()):
        if protocol.config.resolve() == path.resolve():
            return protocol
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Protocol("custom", path.stem, digest, path)


def find_in_detectron2_zoo(name: str) -> Path:
    """The YAML file of Detectron2's own model zoo, as ``COCO-Detection/….yaml``."""
    import detectron2

    folder = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    if os.path.isfile(folder / name):
        return folder / name
    names = [str(path.relative_to(folder)) for path in folder.glob("**/*.yaml")]
    near = difflib.get_close_matches(name[:100], names, n=1)
    hint = f"; did you mean {near[0]} of Detectron2's model zoo?" if near else ""
    raise UserError(f"config file {escape(name, 300)} not found{hint}", code="config.not_found")
