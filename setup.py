"""What setup.cfg cannot say: the extension that starts programs."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "parallel_exec.environments.local._spawn",
            ["parallel_exec/environments/local/_spawn.c"],
            extra_compile_args=["-Wall", "-Wextra"],
            py_limited_api=True,  # one for every Python from 3.11
            optional=True,  # without a compiler there is `subprocess.Popen`
        )
    ]
    if sys.platform == "linux"
    else []
)
