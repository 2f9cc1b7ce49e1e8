"""Laws of the border: whatever a YAML file, a label file or a flag holds, it is read or refused in one line."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import REPOSITORY

from yolo_lite.config.errors import ConfigError, DataError
from yolo_lite.config.load import load_dataset_config, load_hyp, load_model_config
from yolo_lite.engine.seams import SEAMS
from yolo_lite.model.builder import build_layers

LOADERS: dict[str, Callable[..., Any]] = {"model": load_model_config, "hyp": load_hyp, "data": load_dataset_config}
GIVEN = {
    kind: sorted((REPOSITORY / folder).glob(pattern))
    for kind, folder, pattern in (
        ("model", "cfg", "[!h]*.yaml"),
        ("hyp", "cfg", "hyp*.yaml"),
        ("data", "data", "*.yaml"),
    )
}
# What stands in the place of a value or a key, as text.
ODD = [
    *("", "~", "null", "true", "off", "yes", "0", "-1", "1e-2", "1e400", "-1e400", ".nan", ".inf", "-.inf", "1e308"),
    *("2024-99-99", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "12:30:45", "1:99", "0x" + "f" * 5000, "0b2", "0o9"),
    *("9" * 5000, "9" * 40, "-" + "9" * 20, str(2**63), str(2**63 - 1), "1_000", "1e-320", "0.0000000000000000001"),
    *("!!int x", "!!int ''", "!!float x", "!!bool x", "!!null x", "!!timestamp x", "!!binary '@@'", "!!binary aGk="),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object/apply:os.system [true]", "!!str 1", "!x y"),
    *("!!seq {a: 1}", "!!map [1]", "!!merge <<", "<<", "=", "&a 1", "*a", "&a [*a]", "{<<: {a: 1}}", "? [1]", "- - -"),
    *(
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{a: {b: {c: 1}}}",
        "{1: 2}",
        "{[1]: 2}",
        "{null: 1}",
        "{2024-01-01: 1}",
        "{? {}: 1}",
    ),
    *("[" * 3000, "{a: " * 3000, "[" * 300 + "]" * 300, "[1, two, 3.0, null, [4]]", "[-1, 1, Conv, [64, 3, 2]]"),
    *('"a\\0b"', '"\\ud800"', '"\\x1b[2J"', '"\\u202e"', "'" + "n" * 10000 + "'", "~nosuchuser", "~", "~/x", "/", "."),
    *(
        "../../../..",
        "/dev/zero",
        "/proc/self/mem",
        "a/" * 5000,
        "'*'",
        "'**'",
        "'[a'",
        "http://x/y.zip",
        "nc",
        "anchors",
    ),
    *(
        "|\n    text",
        ">-\n    text",
        "'",
        '"',
        "]",
        "}",
        ":",
        "#",
        "%",
        "@",
        "`",
        "\t",
        "\x00",
        "\x85",
        "\ufeff",
        "\U0001f600",
    ),
    "[" + "1, " * 3000 + "1]",
]


def cases(kind: str, number: int, seed: int) -> Iterator[str]:
    """YAML texts made of the files that yolo_lite brings, each with one to three odd places."""
    for each in range(number):
        draw = random.Random(f"{kind} {seed} {each}")
        rows = draw.choice(GIVEN[kind]).read_text().splitlines()
        rows = [row for row in rows if row.strip() and not row.lstrip().startswith("#")]
        for _ in range(draw.randint(1, 3)):
            mutate(rows, draw)
        yield "\n".join(rows) + "\n"


def mutate(rows: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(rows))
    row, odd = rows[place], draw.choice(ODD)
    match draw.randrange(8):
        case 0 | 1 if ":" in row:  # a value
            rows[place] = f"{row.partition(':')[0]}: {odd}"
        case 2 if ":" in row:  # a key
            rows[place] = f"{odd}:{row.partition(':')[2]}"
        case 3 if "," in row or "[" in row:  # part of a list
            words = row.replace("[", ",[,").split(",")
            words[draw.randrange(1, len(words))] = odd
            rows[place] = ",".join(words).replace(",[,", "[")
        case 4 if len(rows) > 1:
            del rows[place]
        case 5:
            rows.insert(place, row)
        case 6:  # renamed
            rows[place] = row.replace("e", "a", 1)
        case _:
            rows.insert(place, odd)


def outcome(kind: str, text: str, file: Path, builds: bool = True) -> str:
    """What a loader makes of a text; ``""`` is fine, anything else says which law is broken."""
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    start = time.process_time()
    said = ""
    try:
        config = LOADERS[kind](file, seams=SEAMS)
        made = yaml.safe_dump(config.model_dump(mode="json"))
        assert made
        if builds and kind == "model" and config.family == "yolo":
            build_layers(config)
            start = time.process_time() - 0.5  # a sound one takes as long
    except (ConfigError, DataError) as error:
        said = str(error)
        if not said.isprintable() and not all(line.isprintable() for line in said.splitlines()):
            return f"unprintable: {said!r:.300}"
        if file.name not in said and "layer" not in said:
            return f"names no file: {said:.300}"
        if max(map(len, said.splitlines())) > 2000:
            return f"{max(map(len, said.splitlines()))} letters in a line: {said:.300}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error!s:.300}"
    spent = time.process_time() - start
    return f"{spent:.1f} s: {said:.200}" if spent > 1 else ""
