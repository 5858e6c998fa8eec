"""What the test command runs; `nox -s NAME` runs one part. The parts use the environment nox is installed in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = False
# The tools installed beside nox, also where that environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@nox.session
def lint(session: nox.Session) -> None:
    """Style and layout."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over code and tests."""
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """The import contract."""
    session.run("lint-imports")


@nox.session
def prose(session: nox.Session) -> None:
    """Spelling, and words that the glossary replaced."""
    session.run("codespell")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, strict: a broken link or an undocumented name fails."""
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; arguments after `--` go to pytest."""
    session.run("pytest", *session.posargs)
