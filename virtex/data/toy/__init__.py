"""Toy data: drawn shapes, written in the layouts of the real datasets.

- ``world``: the objects, and how scenes are sampled
- ``drawing``: scene -> pixels, masks, boxes
- ``captions``: five true sentences per image
- ``coco``, ``keypoints``, ``voc``, ``segmentation``, ``cityscapes``, ``classification``: the
  on-disk layouts
- ``write``: all layouts in one folder
- ``preview``: a contact sheet of written images
"""

from virtex.data.toy.write import has_toy_data, write_toy_data

__all__ = ["has_toy_data", "write_toy_data"]
