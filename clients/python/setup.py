"""Builds the package; the stubs are generated from the API's definition first."""

import pathlib
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

# The folder of this file is not on the path of an isolated build.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from generate import generate  # noqa: E402


class Generate(build_py):
    """Generates before it copies."""

    def run(self) -> None:
        generate()
        super().run()


setup(cmdclass={"build_py": Generate})
