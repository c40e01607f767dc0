"""What a config file says of its constants: the comments beside the statements that set them.

    # Sec. 5                                     <- of all statements up to an empty line
    config.batch_size = 128
    config.epochs = 90.0  # "roughly 90 cycles"  <- of this line; follows the comment above

`config.schedule.update({...})` sets fields, too. Each may have its line, with its comment.
"""

import ast
import importlib
import inspect
import io
import tokenize
import trace
from collections.abc import Iterator
from types import ModuleType

from configs import common


def notes(name: str, argument: str) -> dict[str, str]:
    """{"batch_size": "Sec. 5", ...}: the fields that get_config(argument) sets, with comments.

    name: of the module in configs/. Only the branches that this argument takes count.
    """
    module = importlib.import_module(f"configs.{name}")
    tracer = trace.Trace(count=True, trace=False)
    tracer.runfunc(module.get_config, argument)
    executed = set(tracer.results().counts)
    found = {}
    for source in (common, module):  # the helpers' values may be replaced
        lines = {line for file, line in executed if file == inspect.getsourcefile(source)}
        found |= _of_module(source, lines)
    return found


def _of_module(module: ModuleType, executed: set[int]) -> dict[str, str]:
    source = inspect.getsource(module)
    above, beside = _comments(source)
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign | ast.Expr):
            continue
        if not executed.isdisjoint(range(node.lineno, node.end_lineno + 1)):
            for field, line in _fields(node):
                found[field] = "; ".join(filter(None, (above[node.lineno], beside[line])))
    return found


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """{line: the comment above its block of lines}, {line: the comment beside it}."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string[2:] for t in tokens if t.type == tokenize.COMMENT}
    above, beside, block, in_comment = {}, {}, "", False
    for number, line in enumerate(source.splitlines(), 1):
        text = comments.get(number, "")
        if line.lstrip().startswith("#"):
            block, in_comment = (f"{block} {text}" if in_comment else text), True
            continue
        block, in_comment = block if line.strip() else "", False
        above[number], beside[number] = block, text
    return above, beside


def _fields(statement: ast.Assign | ast.Expr) -> Iterator[tuple[str, int]]:
    """(field, line) of the fields that a statement sets."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=targets)]) | ast.Assign(targets=targets):
            yield from ((name, statement.end_lineno) for name in map(_name, targets) if name)
        case ast.Expr(ast.Call(ast.Attribute(section, "update"), [ast.Dict(keys, values)])):
            for key, value in zip(keys, values, strict=True):
                yield f"{_name(section)}.{key.value}", value.end_lineno


def _name(node: ast.expr) -> str:
    """ "model.name" for config.model.name; "" for anything else."""
    root, _, field = ast.unparse(node).partition(".")
    return field if root == "config" and isinstance(node, ast.Attribute) else ""
