"""The pages of the networks: what the code, the configs and the studies say, as Markdown.

docs/networks/NAME.md introduces the network of configs/NAME.py. Everything else on its page is
generated: the drawing, the layers, the recipe with the notes of the config's docstring, and the
results.
"""

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from configs.common import base
from configs.compare import flatten
from configs.load import load
from configs.schema import SECTIONS
from docs.site import constants
from models import registry, summary
from studies import engine, report
from studies.study import Verdict
from train_lib.experiment import Experiment, resolve
from train_lib.pictures import network_drawing

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = tuple(registry.MODELS | registry.FITTED)  # each has a config file of this name
_ORIGIN = "docs/networks.md"  # links of generated parts are relative to it
_SHOWN = {"traditional": "vq_small"}  # where the default argument needs a folder of photographs
# What a paragraph of a config's docstring is about, by its words. The first that fits counts.
_TOPICS = (
    ("recipe", re.compile(r"^As published|^As in the|The constants are")),
    ("results", re.compile(r"^(Published|Measured|The stud(y|ies))\b")),
    ("changes", re.compile(r"\b(differ\w*|chosen (here|by us)|not clear|does not give)\b", re.I)),
)
_FLAG = re.compile(r'--\w[\w.-]*(?:=(?:"[^"]*"|[^\s`,;)]*[^\s`,;:.)]))?')
_LAYERS = """| layer | type | output | parameters | multiply-adds | receptive field | stride |
|---|---|---|--:|--:|--:|--:|
"""
_LONG = 40  # layers; a longer table is folded


def argument_shown(name: str) -> str:
    """The config whose layers and constants the page shows, such as "vgg:D"."""
    if name in _SHOWN:
        return f"{name}:{_SHOWN[name]}"
    get_config = importlib.import_module(f"configs.{name}").get_config
    (default,) = (p.default for p in inspect.signature(get_config).parameters.values())
    return f"{name}:{default}"


def page(name: str) -> tuple[str, str]:
    """The generated part of a network's page, and its drawing as SVG.

    Links in the text are relative to docs/. The drawing belongs beside the page, as NAME.svg.
    """
    config = argument_shown(name)
    exp = resolve(load(config), read_only=True)
    notes = paragraphs(importlib.import_module(f"configs.{name}").__doc__)
    parts = (
        _architecture(name, config),
        _layers(exp, name),
        *("## Variants\n", _variants(name)),
        *("## Recipe\n", *notes["recipe"], *_constants(config), *_other_arguments(config)),
        *(("## What is unclear or changed\n", *notes["changes"]) if notes["changes"] else ()),
        *("## Results\n", *notes["results"], _studies(name)),
        *("## Commands and arguments\n", *notes["rest"]),
    )
    return "\n".join(parts), network_drawing.svg(exp.module, exp.input_shape)


def paragraphs(docstring: str) -> dict[str, list[str]]:
    """The paragraphs of a config's docstring but the first, as Markdown, by topic.

    Topics: recipe, changes, results, rest. An indented paragraph stays with the one before it.
    """
    topics: dict[str, list[str]] = {"recipe": [], "changes": [], "results": [], "rest": []}
    topic = "rest"
    for paragraph in inspect.cleandoc(docstring).split("\n\n")[1:]:
        if not paragraph.startswith("  "):
            fits = (name for name, pattern in _TOPICS if pattern.search(paragraph))
            topic, paragraph = next(fits, "rest"), with_code(paragraph)
        topics[topic].append(f"{paragraph}\n")
    return topics


def with_code(text: str) -> str:
    """A text with its command-line flags in backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else _FLAG.sub(r"`\g<0>`", p) for p in pieces)


def _architecture(name: str, config: str) -> str:
    return f"""## Architecture

![The layers of {config} from the image to the output, with their shapes.](networks/{name}.svg)

`{config.replace(":", ".py:")}`, drawn from its layers. A box is as wide as the maps (on a
square-root scale), and higher with more maps. Groups and branches stand side by side. A red line is
a shortcut.
"""


def _layers(exp: Experiment, name: str) -> str:
    """The table of layers, with that of the layers that only training uses."""
    description = summary.describe(exp.module, name, exp.input_shape)
    shape = "x".join(map(str, description["input_shape"]))
    rows = [*description["layers"], {"name": "total", **description["total"]}]
    table = _LAYERS + "".join(map(_layer, rows))
    if "training_only" in description:
        extra = description["training_only"]
        rows = [*extra["layers"], {"name": "total", **extra["total"]}]
        table += f"\nOnly in training:\n\n{_LAYERS}{''.join(map(_layer, rows))}"
    if len(description["layers"]) > _LONG:
        table = folded(f"{len(description['layers'])} layers", table)
    return f"## Layers\n\nFor one image of {shape}, as `--mode=summary` lists them.\n\n{table}"


def _layer(row: dict[str, Any]) -> str:
    numbers = (row.get(key) for key in ("params", "macs", "receptive_field", "stride"))
    shape = "x".join(map(str, row.get("output_shape", ())))
    cells = ("" if number is None else f"{number:,}" for number in numbers)
    return f"| {row['name']} | {row.get('type', '')} | {shape} | {' | '.join(cells)} |\n"


def folded(title: str, text: str) -> str:
    """A part of a page that a click opens."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n</details>\n"


def _variants(name: str) -> str:
    """This network's rows of the table in docs/networks.md, without their first column."""
    lines, file, rows = (ROOT / _ORIGIN).read_text(encoding="utf-8").splitlines(), "", []
    start = next(i for i, line in enumerate(lines) if report.COLUMN in line)
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        file = (re.findall(r"\[(\w+)\]\(\.\./configs/", line) or [file])[0]
        rows += [line] if file == name else []
    cut = (f"|{line.split('|', 2)[2]}" for line in [*lines[start : start + 2], *rows])
    return "\n".join(cut) + "\n"


def _meaning(field: str) -> str:
    """What the schema says of a field."""
    path, _, last = field.rpartition(".")
    while path not in SECTIONS:  # a layer's own value, such as optimizer.layer_rates.h0
        path, _, last = path.rpartition(".")
    schema = SECTIONS[path].get(last)
    return schema.meaning if schema else ""


def rows(config: str) -> list[tuple[str, Any, str]]:
    """(field, value, comment) of the fields that a config sets, or that are not neutral."""
    name, _, argument = config.partition(":")
    neutral, notes = flatten(base()), constants.notes(name, argument)
    found = []
    for field, value in flatten(load(config)).items():
        # A mapping is set as a whole: optimizer.layer_rates.h0
        setting = next((name for name in notes if f"{field}.".startswith(f"{name}.")), None)
        if setting is not None or field not in neutral or value != neutral[field]:
            found.append((field, value, notes.get(setting, "")))
    return found


def _constants(config: str) -> Iterator[str]:
    """The table of the fields that the config sets, and a list of those that it leaves neutral."""
    shown = rows(config)
    table = "| field | value | source, other values | meaning |\n|---|---|---|---|\n"
    for field, value, note in shown:
        note = note[:1].upper() + note[1:]
        table += f"| `{field}` | {_value(value)} | {note} | {_meaning(field)} |\n"
    file, names = config.replace(":", ".py:"), {field for field, _, _ in shown}
    yield f"The constants of `{file}`, with the comments that stand beside them there:\n\n{table}"
    rest = (f"`{f}`: {_value(v)}" for f, v in flatten(load(config)).items() if f not in names)
    text = f"[Config fields](config.md) explains them.\n\n{', '.join(rest)}.\n"
    yield folded("All other fields have these neutral values", text)


def _value(value: Any) -> str:
    return f"`{tuple(value) if isinstance(value, list) else value}`" if value != "" else "empty"


def _other_arguments(config: str) -> Iterator[str]:
    """The fields in which the other arguments of the config differ from the one shown."""
    name, _, shown = config.partition(":")
    arguments = getattr(importlib.import_module(f"configs.{name}"), "ARGUMENTS", ())
    if len(arguments) < 2:
        return
    values = flatten(load(config))
    rows = []
    for argument in arguments:
        if argument == shown:
            continue
        others = flatten(load(f"{name}:{argument}"))
        changed = [f for f in values | others if values.get(f) != others.get(f)]
        cells = (f"`{f}`: {_value(others[f]) if f in others else 'none'}" for f in changed)
        rows.append(f"| `{argument}` | {', '.join(cells)} |")
    header = "| argument | fields with another value |\n|---|---|\n"
    yield f"The other arguments differ from `{shown}` in:\n\n{header}" + "\n".join(rows) + "\n"


def _studies(name: str) -> str:
    """The studies that train this network, with their verdicts."""
    rows = []
    for study in engine.names():
        content = engine.find(study)
        scales = (scale for size, scale in content.scales.items() if size != "smoke")
        runs = (run for scale in scales for run in scale.runs)
        if any(run.config.partition(":")[0] == name for run in runs):
            stored = report.load(study)
            verdict = stored["verdict"] if stored else Verdict.NOT_RUN
            rows.append(f"| [{study}](studies/{study}.md) | {content.claim} | {verdict} |")
    if not rows:
        return "No study trains this network.\n"
    return "| study | claim | verdict |\n|---|---|---|\n" + "\n".join(rows) + "\n"
