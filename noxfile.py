"""How queueport is checked and shown, for contributors and for CI: `nox` runs every check, `nox -l` lists them.

Every environment is pinned by constraints.txt and reused from one run to the next.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import nox
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent
ADAPTERS = sorted(path.parent for path in ROOT.glob("adapters/[!_]*/pyproject.toml"))
REPORTS = ROOT / "docs/contract"
"""What the README's table of backends is made of."""

# A URI, for pip splits these variables at blanks. Two variables, for pip pins what it builds with apart.
CONSTRAINTS = (ROOT / "constraints.txt").as_uri()
PINNED = {"PIP_CONSTRAINT": CONSTRAINTS, "PIP_BUILD_CONSTRAINT": CONSTRAINTS}

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
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
]


def install(session: nox.Session, *groups: str, package: bool = True, adapters: bool = False) -> None:
    """Install queueport from this folder and the dependency groups it is to be checked with."""
    folders = [".[redis]", *map(str, ADAPTERS)] if adapters else [".[redis]"] if package else []
    words = [word for folder in folders for word in ("-e", folder)]
    session.install(*words, *(word for group in groups for word in ("--group", group)), env=PINNED)


def pytest(session: nox.Session, *arguments: str, processes: str = "auto") -> None:
    """Run pytest on as many cores as there are, four at most; in more processes where they wait more than they work."""
    session.run("pytest", f"--numprocesses={processes}", "--maxprocesses=4", *arguments, *session.posargs)


def report(session: nox.Session, *backends: str) -> None:
    """Have a whole run of the contract leave its reports, and drop the old ones of these backends."""
    if not session.posargs:
        for old in [path for backend in backends for path in REPORTS.glob(f"contract-{backend}*.json")]:
            old.unlink()  # runs add to what is there
        session.env["QUEUEPORT_CONTRACT_REPORT"] = str(REPORTS)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Show real jobs on the embedded backend: `nox -s quickstart -- FOLDER`, or this repository's own files."""
    folder = Path(session.invoked_from, *session.posargs) if session.posargs else ROOT
    install(session)
    with session.chdir("examples"):
        session.run("python", "-m", "quickstart", str(folder))


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tests; what follows `--` goes to pytest."""
    install(session, "tests", "servers")
    pytest(session, *(f"--ignore=tests/{slow}" for slow in ("lifecycle", "contract", "mutants", "examples")))


@nox.session
def lifecycle(session: nox.Session) -> None:
    """The promises of the design under thousands of random faults, and the broken rules that must show."""
    install(session, "tests")
    pytest(session, "tests/lifecycle")


@nox.session
def contract(session: nox.Session) -> None:
    """The shipped contract suite, on the built-in backends and on the adapter that the examples write."""
    install(session, "tests")
    report(session, "memory", "spool", "sqlite")
    pytest(session, "tests/contract", processes="4")


@nox.session
def adapters(session: nox.Session) -> None:
    """The adapters' own tests, the contract suite among them, on real servers."""
    install(session, "tests", "servers", adapters=True)
    report(session, *(folder.name for folder in ADAPTERS))
    slowest_first = sorted(map(str, ADAPTERS), reverse=True)  # SQS, whose emulators work while the others wait
    pytest(session, "--dist=loadgroup", *slowest_first, processes="3")


@nox.session
def lowest(session: nox.Session) -> None:
    """The adapters' tests, and those of the core and its stores, with the lowest versions that are declared."""
    install(session, "tests", "servers", adapters=True)
    session.install(*lower_bounds(), "moto")  # not pinned: what they need goes down with them, and moto's boto3 too
    session.run("pip", "check")
    if session.posargs:
        pytest(session, processes="3")
    else:  # apart: a worker's processes import the modules of every task that was declared beside it
        pytest(session, "tests/unit", "tests/stores", processes="3")
        pytest(session, "--dist=loadgroup", *map(str, ADAPTERS), processes="3")


def lower_bounds() -> list[str]:
    """What queueport and its adapters need beside each other, in the lowest version that all of them declare."""
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
    """The broken backends, each of which the contract suite must catch."""
    install(session, "tests")
    pytest(session, "tests/mutants")


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, as a process of its own, with its output checked."""
    install(session, "tests", "servers", adapters=True)
    pytest(session, "tests/examples")


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and formatting, by ruff."""
    install(session, "lint", package=False)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the code, of its tests and of the public interface."""
    install(session, "types", "servers", adapters=True)
    session.run("mypy")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # else pyright asks the network for a newer pyright
    session.run("pyright")
    verify_types(session)


def verify_types(session: nox.Session) -> None:
    """Fail where a checker could not know the type of a public name; neither tests nor commands are meant."""
    command = ("pyright", "--verifytypes", "queueport", "--ignoreexternal", "--outputjson")
    found = session.run(*command, silent=True, success_codes=[0, 1])
    symbols = json.loads(str(found))["typeCompleteness"]["symbols"]
    public = [
        symbol
        for symbol in symbols
        if symbol["isExported"] and not symbol["name"].startswith(("queueport.testing", "queueport.cli"))
    ]
    unknown = sorted(s["name"] for s in public if not s["isTypeKnown"] or s["isTypeAmbiguous"])
    if not public or unknown:
        session.error(f"the types of these public names are not known: {', '.join(unknown) or 'there are no names'}")
    session.log(f"the types of all {len(public)} public names are known")


@nox.session
def docs(session: nox.Session) -> None:
    """The generated parts of the documentation are up to date."""
    install(session, adapters=True)
    session.run("python", "docs/generate.py", "--check")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build queueport and its adapters, and run the quickstart in an environment that has nothing but the wheels."""
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
