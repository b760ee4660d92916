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
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import parallel_exec as px
from parallel_exec.environments.local import spawn

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, built from a copy of the tree: what is left of
    earlier builds stays out.
    """
    place = tmp_path_factory.mktemp("built")
    made = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "_build")
    shutil.copytree(TREE, place / "tree", ignore=made)
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--sdist", "--wheel", "--no-isolation"),
            *("--outdir", place, "tree"),
        ],
        cwd=place,
        check=True,
        capture_output=True,
    )
    return place


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.Path:
    """The wheel."""
    (path,) = built.glob("*.whl")
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
    assert len(built) == (spawn.fast is not None)
    # From Python 3.15 on the name says the platform, too.
    assert all(re.fullmatch(r"_process\.abi3(-[\w-]+)?\.so", name) for name in built)


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
    assert metadata["Version"] == px.__version__
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
    for version in ("3.11", "3.12", "3.13", "3.14", "3.15"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers


def test_dependencies(metadata: Message) -> None:
    """Three at run time and nothing else; the notebook's widgets are an extra."""
    required = metadata.get_all("Requires-Dist", [])
    names = {re.split("[<>=!;]", each)[0].strip(): ";" in each for each in required}
    assert names == {"paramiko": False, "tenacity": False, "tqdm": False, "ipywidgets": True}
    assert metadata.get_all("Provides-Extra") == ["notebook"]


def test_every_dependency_has_a_lower_bound_that_is_tested(metadata: Message) -> None:
    """The environment with the lowest dependencies has exactly the bounds of the metadata."""
    required = metadata.get_all("Requires-Dist", [])
    bounds = {each: re.search(r">=([0-9.]+)", each) for each in required}
    assert all(bounds.values()), bounds
    sys.path.insert(0, str(TREE / "tools"))
    try:
        import environment
    finally:
        sys.path.pop(0)
    pins = {line for line in environment.lowest() if line}
    assert pins == {
        f"{re.split('[<>=]', each)[0]}=={bound[1]}" for each, bound in bounds.items() if bound
    }


def test_private_names_of_paramiko_have_an_upper_bound(metadata: Message) -> None:
    """The next major release may take away what is used of it."""
    (paramiko,) = (
        each for each in metadata.get_all("Requires-Dist", []) if each.startswith("paramiko")
    )
    upper = re.search(r"<(\d+)", paramiko)
    assert upper is not None
    from importlib.metadata import version

    assert int(version("paramiko").split(".")[0]) < int(upper[1])


def test_contents(wheel: zipfile.Path) -> None:
    """The package alone, whole, with its marker of being typed."""
    names = {name for name in wheel.root.namelist() if not name.endswith("/")}
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"parallel_exec"}
    assert "parallel_exec/py.typed" in names
    sources = {str(path.relative_to(TREE)) for path in (TREE / "parallel_exec").rglob("*.py")}
    assert sources <= names


def test_sdist_has_the_tests_and_the_docs(built: Path) -> None:
    """Who builds a package from the sdist can run the suite and make the documentation."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "pyproject.toml", "CHANGELOG.md", "LICENSE"}
    for folder in ("tests", "docs", "tools", "benchmarks", "changelog.d", "parallel_exec"):
        wanted |= {
            str(file.relative_to(TREE))
            for file in (TREE / folder).rglob("*")
            if file.is_file()
            and file.suffix in (".py", ".pyi", ".md", ".c", ".svg", ".txt")
            and "_build" not in file.parts
        }
    assert wanted <= names, sorted(wanted - names)


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
    # cryptography comes with paramiko, which cannot be without it.
    declared = {"paramiko", "cryptography", "tenacity", "tqdm", "ipywidgets"}
    allowed = declared | set(sys.stdlib_module_names) | {"parallel_exec"}
    imported = {
        (name.split(".")[0], str(path.relative_to(TREE)))
        for path in (TREE / "parallel_exec").rglob("*.py")
        for node in _run(ast.parse(path.read_bytes()))
        for name in _imports(node)
    }
    assert {pair for pair in imported if pair[0] not in allowed} == set()


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below `node`, but for what only type checkers read."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        yield from _run(child)


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
