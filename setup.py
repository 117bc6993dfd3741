"""What `pyproject.toml` cannot say: the weights, which lie beside the package in the sources, go into it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithWeights(build_py):
    """Builds the package with `Resources/Models` in it; from there `weights` reads them."""

    def run(self) -> None:
        """Copy them where this is not an installation of the sources themselves."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "RecurrentRegistrationLib" / "Models"
            shutil.copytree("Resources/Models", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithWeights})
