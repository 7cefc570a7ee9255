"""Hooks of MkDocs: the site has the README as its home page, and every link works as in the repository.

Pages link to files outside docs/: READMEs of adapters, examples, source code. MkDocs knows only files in docs/, so
these hooks add each linked file to the site, at its path in the repository, and rewrite the links. Code is shown as a
page, and a folder as a list of its files. `mkdocs.yml` names this file.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOME = ROOT / "README.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
"""The path in a relative link of Markdown, without the part from `#`."""

ITEM = re.compile(r"^([-*] |\d+\. ).*\n(?:(?: {2,}.*)?\n)*", re.MULTILINE)
"""An item of a list. Python-Markdown needs four spaces before its further lines, where pages have two or three, and an
empty line after an item with several paragraphs."""
CODE = re.compile(r"(?<!>)<code>([A-Z]\w+(?:\.\w+)?)</code>")
"""The name of a class or of its member, in HTML, which is not a link yet."""


def uri(path: Path) -> str:
    """The path in the site of a file or folder of the repository, as MkDocs calls its sources."""
    if path == HOME:
        return "index.md"
    inside = path.is_relative_to(DOCS)
    place = path.relative_to(DOCS if inside else ROOT).as_posix()
    if path.is_dir():
        return f"{place}/index.md"
    return place if inside or path.suffix == ".md" else f"{place}.md"


def linked(path: Path) -> Path:
    """The file that a link to this path shows: for a folder, its README if there is one."""
    readme = path / "README.md"
    return readme if readme.exists() else path


def links(page: Path) -> Iterator[Path]:
    """The files and folders that a page or folder links to."""
    if page.is_dir():
        yield from (linked(path) for path in sorted(page.iterdir()) if not path.name.startswith(("_", ".")))
    elif page.suffix == ".md":
        yield from (linked((page.parent / link).resolve()) for link in LINK.findall(page.read_text()))


def title_of(path: Path) -> str:
    """The title of a page in Markdown, or the name of another file."""
    return path.read_text().splitlines()[0].removeprefix("# ") if path.suffix == ".md" else path.name


def shown(path: Path) -> str:
    """The page that shows a file of code, or a folder."""
    title = f"---\nsearch:\n  exclude: true\n---\n\n# {path.relative_to(ROOT)}\n\n"
    if path.is_dir():
        return title + "".join(f"- [{title_of(child)}]({relpath(child, path)})\n" for child in links(path))
    return f"{title}~~~~{ {'.py': 'python'}.get(path.suffix, 'text') }\n{path.read_text()}~~~~\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, the changelog, and every file that a page links to."""
    waiting = [HOME, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(uri(path)) is None and path.exists():
            text = path.read_text() if path.suffix == ".md" else shown(path)
            files.append(File.generated(config, uri(path), content=text))
            SOURCES[uri(path)] = path
            waiting.extend(links(path))
        elif path.is_relative_to(DOCS) and uri(path) not in SOURCES:
            SOURCES[uri(path)] = path
            waiting.extend(links(path))
    return files


SOURCES: dict[str, Path] = {}
"""The file or folder of the repository for each path in the site."""


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the links of a page to paths in the site."""
    source = SOURCES[page.file.src_uri]
    folder = source if source.is_dir() else source.parent
    if not source.is_dir() and source.suffix != ".md":
        return markdown

    def rewritten(link: re.Match[str]) -> str:
        return relpath(uri(linked((folder / link[1]).resolve())), Path(page.file.src_uri).parent)

    return ITEM.sub(indented, LINK.sub(rewritten, markdown))


def indented(item: re.Match[str]) -> str:
    """An item of a list as Python-Markdown needs it."""
    text = re.sub(f"^ {{{len(item[1])}}}", "    ", item[0], flags=re.MULTILINE)
    return f"{text}\n" if "\n\n" in text else text


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Link the names in docstrings, such as `JobQueue.enqueue`, to their places in an API page."""
    ids = {name.rpartition("queueport.")[2]: name for name in re.findall(r'id="(queueport\.[\w.]+)"', html)}

    def link(name: re.Match[str]) -> str:
        return f'<a href="#{ids[name[1]]}">{name[0]}</a>' if name[1] in ids else name[0]

    return CODE.sub(link, html) if page.file.src_uri.startswith("api") else html
