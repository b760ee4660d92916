"""What setup.cfg cannot say: the extension for the life of local commands."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "parallel_exec.environments.local._process",
            ["parallel_exec/environments/local/_process.c"],
            extra_compile_args=["-Wall", "-Wextra"],
            py_limited_api=True,  # one for every Python from 3.11
            optional=True,  # without a compiler Python's own calls do the same
        )
    ]
    if sys.platform == "linux"
    else []
)
