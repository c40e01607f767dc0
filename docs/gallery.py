"""Draws the pictures of docs/gallery.md again: make gallery.

    python -m docs.gallery                          # all
    python -m docs.gallery feature_maps c3_table    # some, by the names of their files

The page is the source. The block of commands below a picture makes this picture. The blocks run in
the page's order. A command that stands in several blocks runs once.
"""

import argparse
import dataclasses
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gallery.md"
MOST_BYTES = 150_000  # of a picture
_ENTRY = re.compile(r"!\[(.*?)\]\((\S+?)\)((?:(?!!\[).)*?)```sh\n(.*?)```", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    path: of the PNG file. alternative: the text in its place. caption: what stands between it and
    its commands. commands: the lines of its block.
    """

    path: pathlib.Path
    alternative: str
    caption: str
    commands: tuple[str, ...]


def pictures(text: str) -> list[Picture]:
    """The pictures of the page that have commands, in order. text: of the page."""
    return [
        Picture(
            PAGE.parent / file,
            alternative,
            caption.strip(),
            tuple(commands.replace("\\\n", " ").strip().splitlines()),
        )
        for alternative, file, caption, commands in _ENTRY.findall(text)
    ]


def run(command: str) -> str:
    """Runs a command in the repository's folder. Returns why it failed, in one line, or ""."""
    print(command, flush=True)
    program, *arguments = shlex.split(command)
    program = sys.executable if program == "python" else program
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    ended = subprocess.run([program, *arguments], cwd=ROOT, text=True, check=False, **streams)
    if ended.returncode == 0:
        return ""
    last_line = ended.stderr.rstrip().rpartition("\n")[2]
    is_mistake_of_user = ended.returncode == 2 and last_line  # it names the program
    return last_line if is_mistake_of_user else f"{command}: {last_line or 'it failed'}"


def draw(picture: Picture, problems: dict[str, str], started: float) -> str:
    """Runs the commands of a picture. Returns what is wrong with it, in one line, or "".

    problems: command -> its problem or "", of the commands that ran since `started` (seconds).
    """
    for command in picture.commands:
        if command not in problems:
            problems[command] = run(command)
        if problems[command]:
            return problems[command]
    if not picture.path.exists() or picture.path.stat().st_mtime < started:
        return "its commands did not write it"
    if (size := picture.path.stat().st_size) > MOST_BYTES:
        return f"it has {size:,} bytes, more than {MOST_BYTES:,}: change its commands"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the pictures. Returns the exit status, after a line for each problem if not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.gallery", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a picture (default: all)")
    names = parser.parse_args(argv).names
    found = {picture.path.stem: picture for picture in pictures(PAGE.read_text("utf-8"))}
    for name in names:
        if name not in found:
            print(f"gallery: no picture {name!r}: choose from {', '.join(found)}", file=sys.stderr)
            return 2
    names, failed = names or list(found), {}
    started, ran = time.time(), {}
    for name in names:
        if problem := draw(found[name], ran, started):
            failed.setdefault(problem, []).append(name)
    drawn = len(names) - sum(map(len, failed.values()))
    print(f"pictures drawn: {drawn} of {len(names)}", flush=True)
    for problem, affected in failed.items():
        print(f"gallery: not drawn: {', '.join(affected)}: {problem}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    command_line.begin()
    sys.exit(main())
