"""What may stand in a YAML file: plain values, ``1e-2`` is a float, ``off`` and dates are text, keys come once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from yolo_lite.config.bounds import DEPTH, NUMBER_LETTERS


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter about keys, with the floats and booleans of YAML 1.2."""

    depth = 0  # of what is being read

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        if self.depth > DEPTH:
            raise _problem(self.peek_event(), f"nested too deeply, expected at most {DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias and not isinstance(node, yaml.ScalarNode):  # a few lines of them may stand for billions of values
            raise _problem(alias, "an alias of a list or of keys is not supported, expected them in full")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_line: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # else super() says so
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise _problem(key_node, f"a key must be text or a number, found {key!r}")
            if key in first_line:
                raise _problem(key_node, f"duplicate key {key!r}, already given in line {first_line[key]}")
            first_line[key] = line
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > NUMBER_LETTERS:
            raise _problem(node, f"expected a number of at most {NUMBER_LETTERS} letters, found {len(node.value)}")
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # of a tag before what it cannot be: !!int x
            raise _problem(node, f"not a value of its tag {node.tag!r}: {node.value!r:.80}") from error

    def refuse(self, node: yaml.Node) -> None:
        what = "the merge key <<" if node.tag.endswith(":merge") else f"the tag {node.tag!r}"
        raise _problem(node, f"{what} is not supported, expected plain keys and values")


def _problem(place: Any, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, place.start_mark)


Loader.add_constructor(None, Loader.refuse)
for kind in ("binary", "timestamp", "omap", "pairs", "set"):  # no key of ours takes one
    Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.refuse)

_NOT_MEANT = ("tag:yaml.org,2002:timestamp",)  # a class may be called 2024-01-01
# YAML 1.1 as PyYAML reads it makes booleans of yes, no, on and off: only true and false are meant so.
Loader.yaml_implicit_resolvers = {
    letter: [
        rule for rule in rules if rule[0] not in _NOT_MEANT and (letter in "tTfF" or not rule[0].endswith(":bool"))
    ]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# It also wants a dot and a signed exponent in a float: 1e-2 would be a string.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
