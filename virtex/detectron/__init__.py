"""Everything that imports Detectron2; nothing outside this package does.

Importing the package patches the installed libraries for Detectron2 v0.5 (see ``compat``)
before any module of it imports Detectron2. It has no effect on newer versions.
"""

from virtex.detectron import compat

compat.patch_libraries()
