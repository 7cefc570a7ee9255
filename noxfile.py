"""The checks of this repository, for contributors and CI. `nox` runs those that CI runs, except `lowest` and `audit`.

`nox -l` lists all sessions. constraints.txt pins the packages of each environment, and nox uses an environment again in
the next run.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nox
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent
ADAPTERS = sorted(path.parent for path in ROOT.glob("adapters/[!_]*/pyproject.toml"))
REPORTS = ROOT / "docs/contract"
"""The contract reports, from which the table of backends in the README is generated."""
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
"""The fast tests run on each of these Python versions that is installed. `pyproject.toml` lists the supported
versions."""

UNTYPED = ("queueport.testing", "queueport.cli", "queueport.contrib.django")
"""The packages in which types may be unknown. Applications do not import the first two, and Django has no types."""

# The value must be a URI, because pip and uv split a path at spaces. BUILD_CONSTRAINT pins the dependencies of builds.
CONSTRAINTS = (ROOT / "constraints.txt").as_uri()
PINNED = {f"{tool}_{kind}": CONSTRAINTS for tool in ("PIP", "UV") for kind in ("CONSTRAINT", "BUILD_CONSTRAINT")}
PINNED["UV_SYSTEM_CERTS"] = "1"  # uv trusts the certificates of the system, as pip does
PINNED["UV_COMPILE_BYTECODE"] = "1"  # as pip does
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the tests start hundreds of processes: none must compile all code

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"  # uv, if installed, saves minutes
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = [
    "lint",
    "types",
    "tests",
    "lifecycle",
    "contract",
    "adapters",
    "mutants",
    "examples",
    "docs",
    "wheels",
    "browser",
]


@functools.cache
def pythons() -> list[str]:
    """The versions in PYTHONS that are installed: the running one, and each that the command `python3.N` starts."""

    def found(version: str) -> bool:
        if version == "{}.{}".format(*sys.version_info):
            return True
        program = shutil.which(f"python{version}")  # this command may exist although its Python cannot be started
        return program is not None and subprocess.run([program, "-V"], check=False, capture_output=True).returncode == 0

    return [version for version in PYTHONS if found(version)] or ["{}.{}".format(*sys.version_info)]


def install(session: nox.Session, *groups: str, package: bool = True, adapters: bool = False) -> None:
    """Install these dependency groups and, from this folder, queueport (`package`) and its adapters (`adapters`)."""
    folders = [".[redis]", *map(str, ADAPTERS)] if adapters else [".[redis]"] if package else []
    words = [word for folder in folders for word in ("-e", folder)]
    session.install(*words, *(word for group in groups for word in ("--group", group)), env=PINNED)


def pytest(session: nox.Session, *paths: str, options: Sequence[str] = (), processes: str = "auto") -> None:
    """Run the tests in these paths, or in those given after `--`.

    `processes` is the number of processes that run the tests, at most six. "auto" is one for each core; tests that
    mostly wait need more.
    """
    given = any("/" in word and not word.startswith("-") for word in session.posargs)
    arguments = (*options, *(() if given else paths), *session.posargs)
    session.run("pytest", f"--numprocesses={processes}", "--maxprocesses=6", *arguments)


@contextmanager
def reports(session: nox.Session, *backends: str) -> Iterator[None]:
    """Replace the contract reports of these backends after a complete run that has passed and written new ones."""
    with TemporaryDirectory() as folder:
        if not session.posargs:
            session.env["QUEUEPORT_CONTRACT_REPORT"] = folder
        yield
        if written := list(Path(folder).glob("*.json")):
            for old in [path for backend in backends for path in REPORTS.glob(f"contract-{backend}*.json")]:
                old.unlink()
            for path in written:
                shutil.copy(path, REPORTS)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Run real jobs on SQLite, for the files of a folder (`nox -s quickstart -- FOLDER`) or of this repository."""
    folder = Path(session.invoked_from, *session.posargs) if session.posargs else ROOT
    install(session)
    with session.chdir("examples"):
        session.run("python", "-m", "quickstart", str(folder))


@nox.session(python=pythons())
def tests(session: nox.Session) -> None:
    """Run the fast tests on each installed Python. In this and other sessions, arguments after `--` go to pytest."""
    missing = [version for version in PYTHONS if version not in pythons()]
    session.log(f"Python {', '.join(pythons())} found{', not ' + ', '.join(missing) if missing else ''}")
    install(session, "tests", "servers")
    slow = ("browser", "lifecycle", "contract", "mutants", "examples", "site", "chaos", "growth")
    pytest(session, options=[f"--ignore=tests/{folder}" for folder in slow], processes="3")


@nox.session
def lifecycle(session: nox.Session) -> None:
    """Run the fault search, and check that it finds each rule of the protocol that is broken on purpose."""
    install(session, "tests")
    pytest(session, "tests/lifecycle")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Read many damaged messages, records, URLs and requests, and run 1,000 jobs among 10,000 damaged messages on each
    backend. It takes an hour, and does not run in CI; `tests` and `contract` do the same with fewer examples.
    """
    install(session, "tests", "servers", adapters=True)
    session.env["QUEUEPORT_TEST_EXAMPLES"] = "2000"
    pytest(session, "tests/fuzz", options=["--timeout=3600"])
    if not session.posargs:
        session.env["QUEUEPORT_CONTRACT_DAMAGED"] = "10000"
        places = ["tests/contract", *map(str, ADAPTERS)]
        pytest(session, *places, options=["-k", "_D6_jobs_run_among", "--timeout=7200"])


@nox.session
def contract(session: nox.Session) -> None:
    """Run the contract suite on the built-in backends and on the example adapter."""
    install(session, "tests")
    with reports(session, "memory", "spool", "sqlite"):
        pytest(session, "tests/contract", processes="6")


@nox.session
def adapters(session: nox.Session) -> None:
    """Run the tests of the adapters, including the contract suite, on real servers."""
    install(session, "tests", "servers", adapters=True)
    slowest_first = sorted(map(str, ADAPTERS), reverse=True)  # SQS first, because its emulators need the most time
    with reports(session, *(folder.name for folder in ADAPTERS)):
        pytest(session, *slowest_first, processes="6")


@nox.session(venv_backend="virtualenv")  # it calls pip
def lowest(session: nox.Session) -> None:
    """Run the tests of the core, its stores and the adapters with the lowest allowed versions of their dependencies."""
    install(session, "tests", "servers", adapters=True)
    session.install(*lower_bounds(), "moto")  # without constraints.txt: boto3 must match the older botocore
    session.run("pip", "check")
    if session.posargs:
        pytest(session, processes="3")
    else:  # two runs: a worker process imports every module that has declared a task in the test process
        pytest(session, "tests/unit", "tests/stores", processes="3")
        pytest(session, *map(str, ADAPTERS), processes="3")


def lower_bounds() -> list[str]:
    """The dependencies of queueport and its adapters, each pinned to the lowest version that all of them allow."""
    bounds: dict[str, Version] = {}
    for folder in (ROOT, *ADAPTERS):
        project = nox.project.load_toml(folder / "pyproject.toml")["project"]
        redis = project.get("optional-dependencies", {}).get("redis", [])
        for needed in map(Requirement, [*project["dependencies"], *redis]):
            if needed.name != "queueport":
                (bound,) = [Version(each.version) for each in needed.specifier if each.operator == ">="]
                bounds[needed.name] = max(bound, bounds.get(needed.name, bound))
    return [f"{name}=={bound}" for name, bound in bounds.items()]


@nox.session
def mutants(session: nox.Session) -> None:
    """Check that the contract suite finds each backend that is broken on purpose."""
    install(session, "tests")
    pytest(session, "tests/mutants", processes="6")


@nox.session
def chaos(session: nox.Session) -> None:
    """Run jobs for hours on every backend while processes and servers fail, and print a table of what was found.

    It needs an idle machine, and does not run in CI. `nox -s chaos -- --write` puts the table into docs/reliability.md,
    and `tests/chaos/table.py` lists the environment variables that choose backends, jobs and faults. With files or
    folders after `--`, only these tests are run.
    """
    install(session, "tests", "servers", adapters=True)
    given = any("/" in word for word in session.posargs)
    if given:
        pytest(session, options=["-s", "--timeout=300"], processes="0")
    else:
        session.run("pytest", "--numprocesses=0", "-s", "--timeout=300", "tests/chaos")
        session.run("python", "-m", "tests.chaos.table", *session.posargs)


@nox.session
def growth(session: nox.Session) -> None:
    """Run 100,000 small jobs, or GROWTH_JOBS, through one worker, let a worker idle for a week on a fast clock, and
    fork a producer 1,000 times: memory, files, threads and keys must not grow. It takes an hour, and is not part of CI.
    """
    install(session, "tests", "servers", adapters=True)
    pytest(session, "tests/growth", options=["-s", "--timeout=0"], processes="0")


@nox.session
def examples(session: nox.Session) -> None:
    """Run each example in a fresh process and check its output, and run the tests of the sample app and the guide."""
    install(session, "tests", "servers", "examples", adapters=True)
    pytest(session, "tests/examples")


def chromium() -> bool:
    """True if a program is installed that tests/browser can use."""
    return any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))


@nox.session
def browser(session: nox.Session) -> None:
    """Test the dashboard in Chromium against real workers; `-- --screenshots` also writes docs/images.

    Root installs Chromium with apt-get. If it is still missing, the session is skipped; if `CI` is set, it fails.
    """
    if not chromium() and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        for command in (["update"], ["install", "--yes", "chromium"]):  # without a network, both end with 100
            session.run("apt-get", "-o", "Acquire::http::Timeout=20", *command, external=True, success_codes=[0, 100])
    if not chromium():
        stop = session.error if "CI" in os.environ else session.skip
        stop("Chromium was not found: install it, for example with `apt-get install chromium`")
    install(session, "tests", "servers", "browser", adapters=True)
    pytest(session, "tests/browser", processes="2")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare queueport with each library used directly (`nox -s bench -- --help`). It needs an idle machine.

    `nox -s bench -- scale` measures the calls of a store with up to a million records, `nox -s bench -- pages URL` the
    pages of the dashboard, and `nox -s bench -- core` the core alone and two worker processes.
    """
    install(session, "bench", "tests", "servers", adapters=True)
    if session.posargs[:1] in (["scale"], ["pages"], ["core"]):
        session.run("python", "-m", f"benchmarks.{session.posargs[0]}", *session.posargs[1:])
    else:
        session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and formatting with ruff, security with bandit, and the layers of the packages with import-linter."""
    install(session, "lint", adapters=True)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    sources = ["src", *(f"{folder}/src" for folder in ADAPTERS)]
    session.run("bandit", "--quiet", "--configfile=pyproject.toml", "--recursive", *sources)
    session.run("lint-imports", "--no-cache")


@nox.session
def audit(session: nox.Session) -> None:
    """Ask PyPI for known vulnerabilities of the packages in constraints.txt. It needs the network."""
    install(session, "audit", package=False)
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--output={report}"]
        # exit code 1 also means that PyPI cannot be reached
        session.run("pip-audit", "--requirement=constraints.txt", *options, silent=True, success_codes=[0, 1])
        packages = json.loads(report.read_text())["dependencies"] if report.exists() else []
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        stop = session.error if os.environ.get("CI") else session.skip
        stop("PyPI's list of vulnerabilities cannot be reached, so no package was checked: run this with a network")
    if unknown:
        session.error(f"PyPI has no data about {', '.join(unknown)}: correct constraints.txt")
    found = {f"{package['name']}: {vuln['id']}" for package in packages for vuln in package["vulns"]}
    if found:
        session.error(f"constraints.txt pins packages with known vulnerabilities: {'; '.join(sorted(found))}")
    session.log(f"no known vulnerability in {len(packages)} packages")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the code, the tests and the public interface."""
    install(session, "types", "servers", adapters=True)
    session.run("mypy")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # do not look for a newer pyright on the network
    session.run("pyright")
    verify_types(session)


def verify_types(session: nox.Session) -> None:
    """Fail if the type of a public name is unknown or ambiguous, except in UNTYPED."""
    command = ("pyright", "--verifytypes", "queueport", "--ignoreexternal", "--outputjson")
    found = session.run(*command, silent=True, success_codes=[0, 1])
    if found is None:  # with --install-only, nox does not run commands
        return
    symbols = json.loads(str(found))["typeCompleteness"]["symbols"]
    public = [symbol for symbol in symbols if symbol["isExported"] and not symbol["name"].startswith(UNTYPED)]
    unknown = sorted(s["name"] for s in public if not s["isTypeKnown"] or s["isTypeAmbiguous"])
    if not public or unknown:
        session.error(f"the types of these public names are unknown: {', '.join(unknown) or 'no names found'}")
    session.log(f"the types of all {len(public)} public names are known")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that the generated parts of the documentation are up to date, and build the site in the folder `site`.

    A warning of MkDocs is an error. `nox -s examples` runs the code blocks.
    """
    install(session, "tests", "docs", adapters=True)
    session.run("python", "docs/generate.py", "--check")
    session.run("mkdocs", "build", "--clean")
    pytest(session, "tests/site", processes="0")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build queueport and its adapters, and run the quickstart in an environment with only their wheels."""
    install(session, "wheels", package=False)
    with TemporaryDirectory() as place:
        for folder in (ROOT, *ADAPTERS):
            session.run("python", "-m", "build", f"--outdir={place}/dist", str(folder), env=PINNED)
        session.run("virtualenv", "--quiet", f"{place}/empty")
        python = f"{place}/empty/bin/python"
        built = [str(wheel) for wheel in Path(place, "dist").glob("*.whl")]
        session.run(python, "-m", "pip", "install", "--quiet", *built, env=PINNED, external=True)
        with session.chdir("examples"):
            session.run(python, "-m", "quickstart", str(ROOT / "docs"), external=True)
