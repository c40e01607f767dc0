"""How many bytes a compiled program moves, from its text: for `benchmarks.accelerator_parts`."""

import math
import re

_BITS = {"pred": 8, "bf16": 16, "c64": 64}  # the names of other types end with their bits
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
# Instructions that move nothing, and the ends of those that were counted when they started.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional")


def moved_bytes(program: str) -> float:
    """The bytes that the instructions of a compiled program, as text, read and write.

    Each reads its operands and writes its result once. Fusions and library calls count as one. Of a
    loop or a conditional, nothing is counted, and of a library call not its scratch memory.
    """
    blocks = re.split(r"\n(?=\S)", program)
    computations = {}
    for block in blocks:
        head, _, body = block.partition("\n")
        name = re.match(r"(ENTRY )?%?([^\s(]+)", head)
        if name and head.rstrip().endswith("{"):
            computations["ENTRY" if name[1] else name[2]] = body.splitlines()

    def size(text: str) -> float:
        shapes = _SHAPE.findall(text)
        return sum(
            math.prod(map(int, filter(None, dims.split(","))))
            * (_BITS.get(kind) or int(re.sub(r"\D", "", kind)))
            / 8
            for kind, dims in shapes
        )

    def total(lines: list[str]) -> float:
        sizes, bytes_ = {}, 0.0
        for name, shape, operation, rest in map(
            re.Match.groups, filter(None, map(_INSTRUCTION.match, lines))
        ):
            is_library = operation == "custom-call"
            sizes[name] = size(re.sub(r"\bu8\[\d+\]", "", shape) if is_library else shape)
            called = re.search(r"to_apply=%?([\w.-]+)", rest)
            if operation == "call" and called:
                bytes_ += total(computations[called[1]])
            elif operation not in _FREE and not operation.endswith("-done"):
                operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
                bytes_ += sizes[name] + sum(sizes.get(operand, 0.0) for operand in operands)
        return bytes_

    return total(computations["ENTRY"])
