"""All tasks, declared in one module each. See ``docs/extending.md`` for how to add one."""

from virtex.tasks.registry import (
    TASKS,
    Task,
    build_protocols,
    get_task,
    load_plugins,
    packaged_protocol,
    plan_task,
    register_task,
)

# The order of tables, of the leaderboard's columns and of evaluate_all's runs.
from virtex.tasks import coco, lvis, voc, coco_keypoints, cityscapes  # isort: skip  # noqa: F401
from virtex.tasks import ade20k, voc_seg, cityscapes_seg  # isort: skip  # noqa: F401
from virtex.tasks import voc07_svm, imagenet, inaturalist, coco_captioning  # isort: skip  # noqa: F401
from virtex.tasks import suite  # isort: skip  # noqa: F401
from virtex.tasks import pretraining  # isort: skip  # noqa: F401

__all__ = [
    "TASKS",
    "Task",
    "build_protocols",
    "get_task",
    "packaged_protocol",
    "plan_task",
    "register_task",
]

load_plugins()
