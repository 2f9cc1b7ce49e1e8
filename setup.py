"""A wheel carries cfg/*.yaml and data/*.yaml inside the package; everything else is said in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithYamls(build_py):
    """Copies the YAML files into the wheel; an editable installation finds them beside the package."""

    def run(self) -> None:
        super().run()
        for file in (
            [] if self.editable_mode else sorted(Path().glob("cfg/*.yaml")) + sorted(Path().glob("data/*.yaml"))
        ):
            target = Path(self.build_lib, "yolo_lite", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithYamls})
