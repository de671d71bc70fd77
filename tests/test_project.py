"""The project itself: that an install is whole, and that the tools read every file of it.

On an editable install mypy once said "Success" having read two files of seven. So an error of each
kind is planted in every package folder here, and has to be reported.
"""

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import dirprune

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("src/dirprune", "model", "guides", "inference", "analysis")
HEAVY = {"arviz", "matplotlib", "numpy", "pyro", "scipy", "sklearn", "torch", "typer", "xarray"}

TYPE_ERROR = '''"""Planted."""

count: int = "three"
'''
FAILING_DOCTEST = '''"""Planted.

>>> 1 + 1
3
"""
'''


def package_folders() -> dict[str, str]:
    """Return the mapping of setup.cfg, package name -> folder."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["package_dir"].strip().splitlines()
    pairs = (line.split("=") for line in lines)
    return {name.strip(): folder.strip() for name, folder in pairs}


def source_files() -> list[Path]:
    """Return every file below the source folders, relative to the root, caches aside."""
    return [
        path.relative_to(ROOT)
        for folder in SOURCE_FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit status, without what pytest has set around us."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def install(sources: Path, target: Path) -> Path:
    """Install the package from ``sources`` into the folder ``target``, without the network."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    done = run(*pip, "install", *offline, "--target", target, sources, cwd=sources)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the project with an error of each kind planted in every package."""
    copy = tmp_path_factory.mktemp("copy")
    for path in source_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in package_folders().values():
        (copy / folder / "planted_type.py").write_text(TYPE_ERROR, encoding="utf-8")
        (copy / folder / "planted_doctest.py").write_text(FAILING_DOCTEST, encoding="utf-8")
    return install(copy, tmp_path_factory.mktemp("site"))


def planted_paths(name: str) -> set[str]:
    """Return where the planted files called ``name`` lie in an install."""
    return {f"{package.replace('.', '/')}/{name}.py" for package in package_folders()}


def test_every_source_file_is_installed(planted: Path) -> None:
    # Longest folder first: src/dirprune/command lies within src/dirprune.
    folders = sorted(package_folders().items(), key=lambda pair: -len(pair[1]))
    missing = []
    for path in source_files():
        package, folder = next(p for p in folders if path.is_relative_to(p[1]))
        installed = planted / package.replace(".", "/") / path.relative_to(folder)
        if not installed.is_file():
            missing.append(str(path))
    assert not missing


def test_every_package_is_listed() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = package_folders()
    with_python = {path.parent.as_posix() for path in source_files() if path.suffix == ".py"}
    assert set(listed.values()) == with_python
    assert set(config["options"]["packages"].split()) == set(listed)
    for folder in listed.values():
        assert (ROOT / folder / "__init__.py").is_file()


def test_mypy_reads_every_package(planted: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy comes with the extra dev")
    # Imports from outside are not followed: reading torch takes a minute, and is not the question.
    command = [sys.executable, "-m", "mypy", "-p", "dirprune", "--follow-imports=skip"]
    settings = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache"]
    done = run(*command, *settings, cwd=tmp_path, MYPYPATH=str(planted))
    output = done.stdout.replace(os.sep, "/")
    reported = {p for p in planted_paths("planted_type") if f"/{p}:3: error: Incompat" in output}
    assert done.returncode == 1, done.stderr
    assert reported == planted_paths("planted_type"), output


def test_pytest_reads_every_docstring(planted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--color=no", "-k", "planted_doctest"]
    doctests = ["--doctest-modules", "--pyargs", "dirprune"]
    done = run(*command, *options, *doctests, cwd=tmp_path, PYTHONPATH=str(planted))
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1, done.stdout + done.stderr
    expected = {f"{package}.planted_doctest" for package in package_folders()}
    assert {line.split("::")[1].split()[0] for line in failed} == expected, done.stdout


def test_import_is_light(tmp_path: Path) -> None:
    code = "import sys, dirprune; dir(dirprune); print(*{m.split('.')[0] for m in sys.modules})"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("name", dirprune.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(dirprune, name)
    assert name in dir(dirprune)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__module__.startswith("dirprune.")


def test_unknown_name_is_an_attribute_error() -> None:
    name = "prone"
    with pytest.raises(AttributeError, match="has no attribute 'prone'"):
        getattr(dirprune, name)


def test_lists_of_public_names_agree() -> None:
    assert set(dirprune.__all__) == {*dirprune._HOME, "__version__"}
    assert len(set(dirprune.__all__)) == len(dirprune.__all__)


def test_version_is_that_of_setup_cfg() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert dirprune.__version__ == config["metadata"]["version"]
