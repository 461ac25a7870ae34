"""All tasks, declared in one module each. See ``docs/extending.md`` for how to add one."""

from virtex.tasks.registry import (
    TASKS as TASKS,
)
from virtex.tasks.registry import (
    Task as Task,
)
from virtex.tasks.registry import (
    build_protocols as build_protocols,
)
from virtex.tasks.registry import (
    get_task as get_task,
)
from virtex.tasks.registry import (
    load_plugins,
)
from virtex.tasks.registry import (
    packaged_protocol as packaged_protocol,
)
from virtex.tasks.registry import (
    plan_task as plan_task,
)
from virtex.tasks.registry import (
    register_task as register_task,
)

# The order of tables, of the leaderboard's columns and of evaluate_all's runs.
from virtex.tasks import coco, lvis, voc  # isort: skip  # noqa: F401
from virtex.tasks import voc07_svm, imagenet, inaturalist, coco_captioning  # isort: skip  # noqa: F401
from virtex.tasks import pretraining  # isort: skip  # noqa: F401

load_plugins()
