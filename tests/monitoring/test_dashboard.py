"""The dashboard: the committed JSON is what the code makes, and what Grafana's schema allows.

The schema is that of Grafana's own SDK, whose classes are generated from it: what it does not know
is lost on the way through them, and what has the wrong type is found by typeguard.
"""

import json
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from typeguard import TypeCheckError, check_type

HERE = Path(__file__).parent.parent.parent
JSON = HERE / "monitoring/dashboards/quantum-ess.json"
RULES = HERE / "monitoring/quantum-ess.rules.yml"
sys.path.insert(0, str(HERE / "monitoring"))

Tree = dict[str, Any]


@pytest.fixture
def tree() -> Tree:
    """The committed dashboard."""
    read: Tree = json.loads(JSON.read_text())
    return read


def validate(tree: Tree) -> None:
    """Raises AssertionError for what the schema does not know, TypeCheckError for a wrong type."""
    register_default_plugins()
    read = Dashboard.from_json(tree)
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == tree
    check(read)


def check(value: object) -> None:
    """Every field of a schema's object has the type that the schema gives, all the way down."""
    if isinstance(value, list):
        for each in value:
            check(each)
    elif isinstance(value, dict):
        check(list(value.values()))
    elif hasattr(value, "to_json"):
        for name, kind in get_type_hints(type(value)).items():
            held = read(getattr(value, name), kind)
            fits(held, kind)
            check(held)


def read(value: object, kind: Any) -> object:
    """What from_json left as it stands in the JSON, as an object of the schema's class for it."""
    options = get_args(kind) if get_origin(kind) is Union else (kind,)
    for option in options:
        if isinstance(value, list) and get_origin(option) is list:
            return [read(each, get_args(option)[0]) for each in value]
        if isinstance(value, dict) and get_origin(option) is dict:
            return {key: read(each, get_args(option)[1]) for key, each in value.items()}
        if isinstance(value, dict) and hasattr(option, "from_json"):
            known = option.from_json(value)
            assert json.loads(json.dumps(known, cls=JSONEncoder)) == value
            return known
    return value


def fits(value: object, kind: Any) -> None:
    """Raises TypeCheckError, or ValueError for what is none of an enumeration's values."""
    enums = [k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, Enum)]
    if enums and value is not None:
        enums[0](value)  # from_json leaves it as it stands in the JSON
    else:
        check_type(value, kind)


def test_the_committed_json_is_what_the_code_makes() -> None:
    import dashboard

    assert JSON.read_text() == dashboard.text(), "make dashboard"


def test_it_is_what_the_schema_allows(tree: Tree) -> None:
    validate(tree)


def damaged(tree: Tree) -> dict[str, Tree]:
    """The dashboard with one mistake each."""
    panel, target = tree["panels"][0], tree["panels"][0]["targets"][0]
    steps = tree["panels"][2]["fieldConfig"]["defaults"]["thresholds"]
    return {
        "no such key": tree | {"panles": []},
        "no such key in a panel": tree | {"panels": [panel | {"tilte": "x"}]},
        "no such option": tree | {"panels": [panel | {"options": {"colorMood": "none"}}]},
        "no such key in a query": tree
        | {"panels": [panel | {"targets": [target | {"expression": "1"}]}]},
        "no such cursor": tree | {"graphTooltip": 9},
        "a title that is a number": tree | {"title": 7},
        "a grid of texts": tree | {"panels": [panel | {"gridPos": {"x": "0"}}]},
        "steps that are a text": tree
        | {
            "panels": [panel | {"fieldConfig": {"defaults": {"thresholds": {"steps": str(steps)}}}}]
        },
    }


@pytest.mark.parametrize("mistake", range(8))
def test_mistakes_are_found(tree: Tree, mistake: int) -> None:
    wrong = list(damaged(tree).values())[mistake]
    with pytest.raises((AssertionError, TypeCheckError, TypeError, AttributeError, ValueError)):
        validate(wrong)


def test_panels_do_not_overlap(tree: Tree) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in tree["panels"]:
        at = panel["gridPos"]
        for x in range(at.get("x", 0), at.get("x", 0) + at["w"]):
            for y in range(at.get("y", 0), at.get("y", 0) + at["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_every_metric_that_is_asked_for_exists(tree: Tree) -> None:
    """Queries, rules and documentation speak of the metrics that the code writes, and no others."""
    source = "".join(file.read_text() for file in (HERE / "quantum_ess").glob("metric*.py"))
    written = set(re.findall(r'(?:gauge|counter|histogram)\(\s*"(\w+)"', source))
    texts = {"dashboard": JSON.read_text(), "rules": RULES.read_text()}
    texts["documentation"] = (HERE / "docs/monitoring.md").read_text()
    for where, text in texts.items():
        asked = set(re.findall(r"quantum_ess_([a-z_]+)", text))
        asked = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
        assert asked - written == set(), where


def test_a_panel_is_a_panel() -> None:
    """typeguard is really asked: the SDK's classes take anything."""
    with pytest.raises(TypeCheckError):
        check(Panel(type_val="stat", title=7))  # type: ignore[arg-type]
