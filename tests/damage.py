"""Damage to good files: bytes, tables, trees of values, checkpoints, ONNX graphs."""

import io
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml

from asc.quantization.quantize import without_deprecation_notices

VALUES = [
    *(None, "", "abc", "5", True, False, [], {}, [None], [[1, 2]], {"a": 1}, "../..", "\x1b[31mred", "$x_{$"),
    "é" * 300,
    *(0, -1, 1, 2, 1.5, -0.1, 1e-30, 1e9, 1e308, 2**31, 2**63, 10**30, math.inf, -math.inf, math.nan),
]
DEPTH = 10_000  # of nested lists


def damaged(path: Path, others: list[Path], chance: random.Random) -> bytes:
    """Other content for a good file: damaged bytes or values, or what another file holds."""
    good = path.read_bytes()
    structural = {".csv": table, ".json": tree, ".yaml": tree, ".ckpt": checkpoint, ".onnx": graph}.get(path.suffix)
    kind = chance.random()
    if structural and kind < 0.6:
        return structural(path, chance)
    if kind < 0.9:
        return broken(good, chance)
    return chance.choice(others).read_bytes()


def broken(good: bytes, chance: random.Random) -> bytes:
    """The bytes truncated, flipped, overwritten, moved, repeated, or none of them."""
    a, b = sorted(chance.randrange(len(good) + 1) for _ in range(2))
    match chance.randrange(8):
        case 0:
            return good[:a]
        case 1 | 2:
            flipped = bytearray(good)
            for _ in range(chance.choice([1, 3, 30])):
                # headers are where a wrong byte is believed
                where = chance.randrange(chance.choice([len(good), min(200, len(good))]))
                flipped[where] = chance.randrange(256)
            return bytes(flipped)
        case 3:
            return good[:a] + bytes(b - a) + good[b:]
        case 4:
            return good[:a] + good[b:]
        case 5:
            return good[:b] + good[a:]
        case 6:
            return chance.choice([b"", b"\0", b"\xff\xfe", chance.randbytes(100), b"[" * DEPTH, b'{"a":' * DEPTH])
        case _:
            return good[:a] + chance.randbytes(b - a) + good[b:]


def table(path: Path, chance: random.Random) -> bytes:
    """A CSV file with a cell, a row or a column changed."""
    text = path.read_text()
    separator = "\t" if "\t" in text else ","
    rows = [line.split(separator) for line in text.splitlines()]
    row, cell = chance.randrange(len(rows)), chance.randrange(len(rows[0]))
    match chance.randrange(6):
        case 0:
            rows = [[*line[:cell], *line[cell + 1 :]] for line in rows]
        case 1:
            rows = rows[:row] + rows[row + 1 :]
        case 2:
            rows.insert(row, rows[chance.randrange(len(rows))])
        case 3:
            rows = rows[:1]
        case _:
            odd = ["", "nan", "inf", "1e308", "-1", "2", "x" * 200_000, "\x1b[31m", '"', "../../etc/passwd", "é", "\0"]
            rows[row][cell] = chance.choice(odd)
    return "\n".join(map(separator.join, rows)).encode() + b"\n"


def tree(path: Path, chance: random.Random) -> bytes:
    """A JSON or YAML file with a value replaced, lost or nested."""
    is_json = path.suffix == ".json"
    values = changed((json.loads if is_json else yaml.safe_load)(path.read_text()), chance)
    if chance.random() < 0.1:
        return b"[" * DEPTH + b"]" * DEPTH
    return (json.dumps(values) if is_json else yaml.safe_dump(values)).encode()


def checkpoint(path: Path, chance: random.Random) -> bytes:
    """A checkpoint with one of its values replaced or lost."""
    with without_deprecation_notices():
        content = torch.load(path, weights_only=True)
        file = io.BytesIO()
        torch.save(changed(content, chance, [*VALUES, torch.zeros(3), torch.full((2, 2), math.nan)]), file)
    return file.getvalue()


def changed(values: Any, chance: random.Random, choices: list[Any] = VALUES) -> Any:
    """Nested values with one of them, at any depth, replaced or lost."""
    if not isinstance(values, dict | list) or not values or chance.random() < 0.1:
        return chance.choice(choices)
    key = chance.choice(list(values) if isinstance(values, dict) else range(len(values)))
    if chance.random() < 0.15:
        del values[key]
    else:
        values[key] = changed(values[key], chance, choices)
    return values


def graph(path: Path, chance: random.Random) -> bytes:
    """An ONNX file with a node, an attribute, an array, a shape or what it says of itself changed."""
    model = onnx.load(path)
    node, array = chance.choice(model.graph.node), chance.choice(model.graph.initializer)
    odd = [0, -1, 1, 3, 2**20, 2**31, 2**62, -(2**63)]
    match chance.randrange(9):
        case 0:
            node.op_type = chance.choice(["Relu", "Conv", "Loop", "Gather", "Reshape", "Foo", "", "STFT", "MaxPool"])
        case 1:
            node.input[0] = chance.choice(["", "nothing", node.output[0], array.name])
        case 2:
            model.graph.node.remove(node)
        case 3 | 4:
            numbers = [a for n in model.graph.node for a in n.attribute if a.ints or a.type == onnx.AttributeProto.INT]
            attribute = chance.choice(numbers)
            if attribute.ints:
                attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(odd)
            else:
                attribute.i = chance.choice(odd)
        case 5:
            array.dims[:] = [chance.choice(odd) for _ in range(chance.randrange(4))]
        case 6:
            fact = chance.choice(model.metadata_props)
            fact.value = json.dumps(changed(json.loads(fact.value), chance))
        case 7:
            array.raw_data = chance.randbytes(len(array.raw_data))
        case _:
            array.ClearField("raw_data")
            array.data_location = onnx.TensorProto.EXTERNAL
            array.external_data.add(key="location", value=chance.choice(["/etc/passwd", "../x", "model.onnx", ""]))
    return model.SerializeToString()


def odd_thing(path: Path, chance: random.Random) -> None:
    """Something that is no plain file, or cannot be read, at a path where nothing is."""
    match chance.randrange(6):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)  # a loop
        case 2:
            path.symlink_to(os.devnull)
        case 3:
            os.mkfifo(path)
        case 4:
            path.write_bytes(b"secret")
            path.chmod(0)
        case _:
            pass  # nothing is there
