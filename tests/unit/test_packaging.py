"""The wheel holds what it should, and its metadata say what setup.cfg means to say.

setuptools drops a key that it does not know without a word, so what counts is the result.
"""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from parallel_exec.environments.local import spawn

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, built from a copy of the tree: what is left of earlier builds stays out."""
    place = tmp_path_factory.mktemp("wheel")
    made = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "_build")
    shutil.copytree(TREE, place / "tree", ignore=made)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, "tree"],
        cwd=place,
        check=True,
        capture_output=True,
    )
    (path,) = place.glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.Path) -> Message:
    """The wheel's METADATA."""
    (folder,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    return Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))


def test_extension(wheel: zipfile.Path) -> None:
    """What is built is in the wheel, for every Python that has the stable interface."""
    folder = wheel / "parallel_exec" / "environments" / "local"
    built = [path.name for path in folder.iterdir() if path.name.endswith(".so")]
    assert built == (["_process.abi3.so"] if spawn.fast is not None else [])


def test_extension_asks_nothing_that_differs_between_pythons() -> None:
    """The sizes of `#` formats are of one type or another by the headers it was built with: what
    Python 3.13 had built failed in 3.11 with the first command's output.
    """
    source = TREE / "parallel_exec" / "environments" / "local" / "_process.c"
    formats = re.findall(r'"\([^"]*\)"|"[A-Za-z#]+", &', source.read_text(encoding="utf-8"))
    assert formats
    assert not [each for each in formats if "#" in each]


def test_identity(metadata: Message) -> None:
    """Name, version, summary, author and license are there."""
    assert metadata["Name"] in ("parallel_exec", "parallel-exec")
    assert metadata["Version"] == _setup_cfg()["metadata"]["version"]
    assert metadata["Summary"].startswith("Run commands and functions concurrently")
    assert metadata["Author"] == "the parallel_exec contributors"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert "executor" in metadata["Keywords"]


def test_description_is_the_readme(metadata: Message) -> None:
    """The long description is README.md, said to be Markdown."""
    assert metadata["Description-Content-Type"].split(";")[0] == "text/markdown"
    body = metadata.get_payload()
    assert isinstance(body, str)
    assert body.strip() == (TREE / "README.md").read_text(encoding="utf-8").strip()


def test_pythons(metadata: Message) -> None:
    """Python 3.11 and newer; the versions that the tests run on are named."""
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier", [])
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers


def test_dependencies(metadata: Message) -> None:
    """Three at run time and nothing else; the notebook's widgets are an extra."""
    required = metadata.get_all("Requires-Dist", [])
    assert sorted(each for each in required if ";" not in each) == [
        "paramiko>=3.5",
        "tenacity",
        "tqdm",
    ]
    assert metadata.get_all("Provides-Extra") == ["notebook"]
    assert [each.split(";")[0].strip() for each in required if ";" in each] == ["ipywidgets"]


def test_contents(wheel: zipfile.Path) -> None:
    """The package alone, whole, with its marker of being typed."""
    names = {name for name in wheel.root.namelist() if not name.endswith("/")}
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"parallel_exec"}
    assert "parallel_exec/py.typed" in names
    sources = {str(path.relative_to(TREE)) for path in (TREE / "parallel_exec").rglob("*.py")}
    assert sources <= names


def test_every_key_of_setup_cfg_is_known() -> None:
    """No key of setup.cfg is one that setuptools would drop."""
    known = {
        "metadata": {
            *("name", "version", "description", "long_description", "author", "keywords"),
            *("long_description_content_type", "license_expression", "license_files"),
            *("platforms", "classifiers", "url", "project_urls"),
        },
        "options": {
            *("python_requires", "packages", "zip_safe", "install_requires", "entry_points"),
        },
        "options.packages.find": {"include"},
    }
    setup = _setup_cfg()
    for section, keys in known.items():
        assert set(setup[section]) <= keys, section


def test_project_table_does_not_exist() -> None:
    """pyproject.toml has no [project] table, which would switch setup.cfg off."""
    pyproject = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))
    assert "project" not in pyproject


def test_runtime_imports_are_declared() -> None:
    """The package imports the standard library, itself, and what it declares."""
    declared = {"paramiko", "tenacity", "tqdm", "ipywidgets"}
    allowed = declared | set(sys.stdlib_module_names) | {"parallel_exec"}
    imported = {
        (name.split(".")[0], str(path.relative_to(TREE)))
        for path in (TREE / "parallel_exec").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _imports(node)
    }
    assert {pair for pair in imported if pair[0] not in allowed} == set()


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def _setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(TREE / "setup.cfg", encoding="utf-8")
    return parser
