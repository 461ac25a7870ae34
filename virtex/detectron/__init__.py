"""Everything that imports detectron2, and nothing outside this folder does.

Importing it makes detectron2 v0.5 fit for today's libraries before any module here can
import detectron2: the one import in this project that acts. It does nothing where
detectron2 is newer or absent.
"""

from virtex.detectron import compat

compat.prepare()
