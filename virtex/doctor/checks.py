"""All checks, in the order in which they are told."""

from virtex.doctor.captions import caption_programs, java
from virtex.doctor.findings import Check
from virtex.doctor.gpus import torch_and_gpus
from virtex.doctor.libraries import (
    OF_DETECTION,
    OF_OTHER_TASKS,
    detectron2,
    this_python,
    this_toolkit,
    torchvision,
)
from virtex.doctor.machine import FOLDERS, cores, memory, shared_memory, threads
from virtex.doctor.packages import requirements

# also those of virtex.detectron.install --check
DETECTION: tuple[Check, ...] = (
    requirements,
    torch_and_gpus,
    torchvision,
    detectron2,
    *OF_DETECTION,
)
CHECKS: tuple[Check, ...] = (
    this_toolkit,
    this_python,
    *DETECTION,
    *OF_OTHER_TASKS,
    java,
    caption_programs,
    memory,
    cores,
    threads,
    shared_memory,
    *FOLDERS,
)
