"""Copy the resources at the top of the repository into built packages; setup.cfg has the rest."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


def top_level_resources() -> list[str]:
    return ["model_zoo.yaml", *map(str, sorted(Path("detectron_configs").rglob("*.yaml")))]


class BuildPy(build_py):
    """``build_py`` whose package holds what ``virtex.resources`` finds beside it in a checkout."""

    def build_package_data(self) -> None:
        super().build_package_data()
        if not self.editable_mode:
            for name in top_level_resources():
                target = Path(self.build_lib, "virtex", name)
                self.mkpath(str(target.parent))
                self.copy_file(name, str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = [str(Path(self.build_lib, "virtex", name)) for name in top_level_resources()]
        return super().get_outputs(include_bytecode) + ([] if self.editable_mode else copied)


setup(cmdclass={"build_py": BuildPy})
