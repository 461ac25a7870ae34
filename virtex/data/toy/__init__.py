"""Built-in data: a world of drawn shapes, written in the layout of every real data set.

- ``world``: what there is, and how scenes are made up
- ``drawing``: scene -> pixels, masks, boxes
- ``captions``: five truthful sentences a picture
- ``coco``, ``voc``, ``classification``: the on-disk layouts
- ``write``: all of them into one folder
- ``preview``: a contact sheet of what was written
"""

from virtex.data.toy.write import has_toy_data, write_toy_data

__all__ = ["has_toy_data", "write_toy_data"]
