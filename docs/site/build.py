"""Builds the documentation site: make docs, or python -m docs.site.build.

    python -m docs.site.build                        # HTML pages, in build/site
    python -m docs.site.build --builder=linkcheck    # asks other sites whether links to them work

Sphinx reads build/site-source, which has the layout of the repository: its Markdown pages and
notebooks, and the pages that are generated here (networks, modules, studies that were not run).
Links to code become links to pages. A link to a file without a page leads to the repository on
GitHub if the environment names it, as it does in GitHub's workflows; else only its text stays.

Notebooks have outputs if `make notebooks` has run them as they are now.
"""

import argparse
import json
import os
import pathlib
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator

from docs.site import networks
from studies import engine
from studies.study import Study

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE, OUTPUT = ROOT / "build" / "site-source", ROOT / "build" / "site"
EXECUTED = ROOT / "build" / "notebooks"  # of notebooks/render.py
# The pages in the order of the site. Pages of docs/ that stand nowhere here close the last group.
START = ("getting_started", "gallery", "lecture", "commands", "python")
HOW_TO = (
    *("data", "training", "weights", "evaluation", "inspection"),
    *("several_processes", "reliability"),
)
# Modules with a page: those of these files and folders.
CODE = ("configs", "models", "input_pipeline", "train_lib", "studies", "command_line", "errors")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def table_of_contents() -> dict[str, list[str]]:
    """{caption: pages, without their endings}: every page that a reader can choose."""
    docs = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    placed = {*START, *HOW_TO, "networks", "config"}
    more = [name for name in docs if name not in placed]
    return {
        "Start": [f"docs/{name}" for name in START if name in docs],
        "Networks": ["docs/networks", *(f"docs/networks/{name}" for name in networks.NAMES)],
        "Experiments": ["docs/studies/README", *(f"docs/studies/{n}" for n in engine.names())],
        "How to": [f"docs/{name}" for name in HOW_TO],
        "Notebooks": [f"notebooks/{path.stem}" for path in notebooks()],
        "Reference": ["docs/config", "api/index"],
        "More": ["benchmarks/README", *(f"docs/{name}" for name in more)],
    }


def notebooks() -> list[pathlib.Path]:
    """The notebooks, as the repository has them, in the order in which the lecture names them."""
    lecture = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
    names = dict.fromkeys(re.findall(r"\(\.\./notebooks/(\w+\.ipynb)", lecture))
    return [ROOT / "notebooks" / name for name in names]


def modules() -> dict[str, pathlib.Path]:
    """{"models.vgg": its file}: the modules with a page, sorted."""
    paths = [p for top in CODE for p in [ROOT / f"{top}.py", *(ROOT / top).rglob("*.py")]]
    relative = {path: path.relative_to(ROOT).with_suffix("") for path in paths if path.exists()}
    names = {".".join(name.parts).removesuffix(".__init__"): p for p, name in relative.items()}
    return {name: names[name] for name in sorted(names) if not name.endswith("__main__")}


def pages() -> dict[str, str]:
    """{file of the repository: page of the site}: where links to a file or folder lead."""
    found = {"README.md": "index.md", "benchmarks/README.md": "benchmarks/README.md"}
    found |= {"benchmarks": "benchmarks/README.md", "docs": "index.md"}
    for path in [*(ROOT / "docs").rglob("*.md"), *notebooks()]:
        found[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT).as_posix()
    for name, path in modules().items():
        found[path.relative_to(ROOT).as_posix()] = f"api/{name}.rst"
        if path.name == "__init__.py":
            found[path.parent.relative_to(ROOT).as_posix()] = f"api/{name}.rst"
    found |= {f"configs/{name}.py": f"docs/networks/{name}.md" for name in networks.NAMES}
    found |= {f"docs/studies/{name}.md": f"docs/studies/{name}.md" for name in engine.names()}
    return found


def relinked(text: str, origin: str, page: str, to_pages: dict[str, str]) -> str:
    """A Markdown text with its links changed for the site.

    origin: the file whose folder the links are relative to. page: the page that has the text.
    """

    def link(match: re.Match) -> str:
        mark, label, target = match.groups()
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), file))
        path = path if file else origin
        if path in to_pages or path.startswith("docs/"):  # a page, or an image beside one
            path = posixpath.relpath(to_pages.get(path, path), posixpath.dirname(page))
            return f"{mark}[{label}]({path}{f'#{anchor}' if anchor else ''})"
        url = repository_url(path)
        return f"[{label}]({url})" if url else label

    return LINK.sub(link, text)


def repository_url(path: str) -> str:
    """The address of a file or folder on GitHub; "" if the environment names no repository."""
    server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    revision = os.environ.get("GITHUB_SHA", "HEAD")
    return f"{server}/{name}/blob/{revision}/{path}" if server and name else ""


def texts() -> Iterator[tuple[str, str]]:
    """(path, text) of every file that the site has in place of the repository's."""
    to_pages = pages()
    for origin in ("README.md", "benchmarks/README.md"):
        text = (ROOT / origin).read_text(encoding="utf-8")
        yield (
            to_pages[origin],
            relinked(text, origin, to_pages[origin], to_pages)
            + (contents() if origin == "README.md" else ""),
        )
    for path in sorted((ROOT / "docs").rglob("*.md")):
        origin = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if origin == "docs/studies/README.md":  # there, studies that were not run have pages, too
            text = re.sub(r"^\| (\w+) \|(?! claim)", r"| [\1](\1.md) |", text, flags=re.MULTILINE)
            text += toctree(engine.names())
        yield origin, relinked(text, origin, origin, to_pages)
    for name in networks.NAMES:
        generated, drawing = networks.page(name)
        page = f"docs/networks/{name}.md"
        introduction = (ROOT / page).read_text(encoding="utf-8")
        text = relinked(generated, "docs/networks.md", page, to_pages)
        code = f"The config as code: [configs.{name}](../../api/configs.{name}.rst).\n"
        yield page, relinked(introduction, page, page, to_pages) + f"\n{text}\n{code}"
        yield f"docs/networks/{name}.svg", drawing
    for name in engine.names():
        if not (ROOT / "docs" / "studies" / f"{name}.md").exists():
            yield f"docs/studies/{name}.md", outline(name, engine.find(name))
    for path in notebooks():
        page = path.relative_to(ROOT).as_posix()
        yield page, notebook(path, page, to_pages)
    yield from reference()


def contents() -> str:
    """The table of contents, as directives at the end of the first page."""
    groups = table_of_contents()
    groups["Experiments"] = groups["Experiments"][:1]  # that page lists the others
    return "".join(toctree(names, caption) for caption, names in groups.items())


def toctree(names: Iterable[str], caption: str = "") -> str:
    """A directive that puts pages into the side bar."""
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    lines = "".join(f"/{name}\n" if caption else f"{name}\n" for name in names)
    return f"\n```{{toctree}}\n{options}\n{lines}```\n"


def outline(name: str, study: Study) -> str:
    """The page of a study that was not run: its claim, and what its verdict will follow from."""
    hours = study.scales["small"].hours if "small" in study.scales else None
    duration = f" It takes about {hours:g} hours on two cores." if hours else ""
    return f"""# {name}: not run

**Claim.** {study.claim} ({study.source})

**How it will be judged.** {study.rule}

**What differs from the source.** {study.changes}

`python -m studies run {name} --scale=small` runs it.{duration}
"""


def notebook(path: pathlib.Path, page: str, to_pages: dict[str, str]) -> str:
    """A notebook as JSON, with the outputs of `make notebooks` if its cells are the same."""
    content = json.loads(path.read_text(encoding="utf-8"))
    executed = EXECUTED / path.name
    if executed.exists():
        with_outputs = json.loads(executed.read_text(encoding="utf-8"))
        sources = [["".join(c["source"]) for c in n["cells"]] for n in (content, with_outputs)]
        content = with_outputs if sources[0] == sources[1] else content
    heading = ""
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            heading = (re.findall(r"^#+ (.+)", text, re.MULTILINE) or [heading])[-1]
            cell["source"] = relinked(text, page, page, to_pages)
        else:  # myst-nb's alternative text is the name of the image's file
            cell["metadata"]["mystnb"] = {"image": {"alt": f"figure: {heading}"}}
    return json.dumps(content)


def reference() -> Iterator[tuple[str, str]]:
    """The pages of the modules. A package lists its modules."""
    names = list(modules())
    tops = "\n".join(f"   {name}" for name in names if "." not in name)
    yield "api/index.rst", f"API\n===\n\n.. toctree::\n   :maxdepth: 1\n\n{tops}\n"
    for name in names:
        children = [n for n in names if n.rpartition(".")[0] == name]
        tree = "".join(f"   {child}\n" for child in children)
        tree = f"\n.. toctree::\n   :maxdepth: 1\n\n{tree}" if children else ""
        title = f"{name}\n{'=' * len(name)}\n"
        yield f"api/{name}.rst", f"{title}\n.. automodule:: {name}\n   :members:\n{tree}"


def write_source() -> int:
    """Writes the files that Sphinx reads, and removes all others. Returns their number.

    A file that is the same keeps its date, so Sphinx reads only what has changed.
    """
    wanted = {path: text.encode() for path, text in texts()}
    for path in (ROOT / "docs").rglob("*.png"):
        wanted[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for name, content in wanted.items():
        path = SOURCE / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.relative_to(SOURCE).as_posix() not in wanted:
            path.unlink()
    return len(wanted)


def remove_old_pages() -> None:
    """Removes pages of earlier builds whose sources are gone. Sphinx would leave them."""
    pages = {path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.*")}
    pages |= {pathlib.Path("_modules", *name.split(".")) for name in (*modules(), "index")}
    pages.add(pathlib.Path("search"))
    for path in OUTPUT.rglob("*.html"):
        if path.relative_to(OUTPUT).with_suffix("") not in pages:
            path.unlink()


def main() -> int:
    """Returns Sphinx's exit status. Any warning is an error."""
    from sphinx.cmd.build import main as sphinx  # the tests need only what is above

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--builder", default="html", help="one of Sphinx's, such as linkcheck")
    builder = parser.parse_args().builder
    write_source()
    output = OUTPUT if builder == "html" else OUTPUT.with_name(f"site-{builder}")
    options = ["--fail-on-warning", "--keep-going", "--quiet", f"--builder={builder}"]
    options += ["--doctree-dir", str(OUTPUT.with_name("site-doctrees"))]
    status = sphinx([*options, "--conf-dir", str(ROOT / "docs/site"), str(SOURCE), str(output)])
    if status == 0:
        remove_old_pages()
        print(f"written to {output.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
