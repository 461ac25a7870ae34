"""Keep torchvision and timm from importing ``torch._dynamo``, the compiler, before it is used.

The import takes about as long as that of torch itself, for two functions that most programs never
call. While one of ``EAGER_MODULES`` is imported, a stub module provides both; they import the
compiler at their first call.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

EAGER_MODULES = ("torchvision.ops.roi_align", "torchvision.tv_tensors", "timm.models.naflexvit")
NAME = "torch._dynamo"


def is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported as function

    return function(device_type)


def disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """``torch._dynamo.disable`` as torch's own optimizers apply it."""
    from torch._compile import _disable_dynamo

    return _disable_dynamo(fn, recursive)


class LazyDynamoFinder(MetaPathFinder):
    """Finds ``EAGER_MODULES`` as Python does, and provides the stub while they are executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in EAGER_MODULES or NAME in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            stub, utils = ModuleType(NAME), ModuleType(f"{NAME}.utils")
            vars(utils)["is_compile_supported"] = is_compile_supported
            vars(stub).update(utils=utils, disable=disable)
            sys.modules.update({NAME: stub, utils.__name__: utils})
            try:
                execute(module)
            finally:
                del sys.modules[NAME], sys.modules[utils.__name__]

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def install() -> None:
    """Install the finder."""
    sys.meta_path.insert(0, LazyDynamoFinder())
