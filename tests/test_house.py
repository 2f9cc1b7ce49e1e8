"""The house stays small: limits on the lines of the core, of the package and of a function."""

from __future__ import annotations

import fnmatch
import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from count_lines import BESIDE, CORE, core_lines, functions, is_core, lines_by_file

# Where the house stands. Whoever makes it smaller lowers these.
MOST_OF_CORE = 6_000
MOST_OF_PACKAGE = 24_900
MOST_OF_FUNCTION = 44


def test_the_core_does_not_grow():
    assert core_lines(lines_by_file()) <= MOST_OF_CORE


def test_the_package_does_not_grow():
    assert sum(lines_by_file().values()) <= MOST_OF_PACKAGE


def test_no_function_is_longer_than_a_screen():
    assert [function for function in functions() if function.lines > MOST_OF_FUNCTION] == []


def test_every_pattern_of_the_core_names_a_file():
    files = lines_by_file()
    assert [pattern for pattern in (*CORE, *BESIDE) if not fnmatch.filter(files, pattern)] == []


def test_the_core_is_what_a_newcomer_reads():
    core = {path for path in lines_by_file() if is_core(path)}
    assert {"structures.py", "loss/box.py", "engine/train.py", "ops/nms.py"} <= core
    assert not {"api.py", "loss/mask.py", "model/faster_rcnn.py", "cli/train.py", "report/evaluation.py"} & core
