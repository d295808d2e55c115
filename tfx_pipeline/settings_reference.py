"""The settings reference, made from the dataclasses: every key with its type, default and meaning.

python -m tfx_pipeline.settings_reference > docs/settings.md
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.contract.schema import CONTRACT, Column, EventLabel, EventTable, Policies, Table
from mim_keras.config import INTERESTS
from tfx_pipeline.auto_settings import ASSUMED, DataCounts, auto_values
from tfx_pipeline.settings import Settings


class Key(NamedTuple):
    """One setting.

    Attributes:
        path: Dotted, as `--set` takes it.
        kind: Its type.
        default: As YAML has it.
        meaning: From the comment in the source.
    """

    path: str
    kind: str
    default: str
    meaning: str


def keys(cls: type = Settings, prefix: str = "", default: Any = None) -> Iterator[Key]:
    """Every setting below a dataclass, in the order of the source.

    Args:
        cls: The dataclass.
        prefix: Dotted path of it.
        default: An instance whose values are the defaults; None for the dataclass's own.
    """
    default = cls() if default is None else default
    meanings = _comments(cls)
    hints = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        path, value, kind = f"{prefix}{one.name}", getattr(default, one.name), hints[one.name]
        if dataclasses.is_dataclass(value):
            yield from keys(type(value), f"{path}.", value)
        else:
            yield Key(path, _kind(kind), _plain(value), meanings.get(one.name, ""))


def _comments(cls: type) -> dict[str, str]:
    """The comment of each field: behind it, or above it."""
    lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        own = lines[node.lineno - 1 : node.end_lineno]
        behind = [line.split("  # ", 1)[1] for line in own if "  # " in line]
        above: list[str] = []
        row = node.lineno - 2
        while not behind and lines[row].strip().startswith("# "):
            above.insert(0, lines[row].strip().removeprefix("# "))
            row -= 1
        if behind or above:
            found[node.target.id] = " ".join(behind or above)
    return found


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " \\| ".join(map(str, typing.get_args(hint)))
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for long, short in (
        ("typing.", ""),
        ("mim_keras.config.", ""),
        ("interests.", ""),
        ("encoder.", ""),
        ("stages.", ""),
    ):
        text = text.replace(long, short)
    return text.replace("tuple[", "list of [").replace(", ...]", "]").replace("|", "\\|")


def _plain(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(one) for one in value) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return str(getattr(value, "name", type(value).__name__))
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, dict):
        value = {name: list(one.events) if isinstance(one, EventLabel) else one for name, one in value.items()}
    return json.dumps(value) if value is None or isinstance(value, bool | dict) else str(value)


def _table(rows: list[Key]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| `{row.path}` | {row.kind} | {row.default.replace('|', chr(92) + '|')} | {meaning} |")
    return lines


def _attributes(cls: type) -> dict[str, str]:
    """The meaning of each attribute, from the docstrings of a class and its parents."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        text = inspect.cleandoc(one.__doc__ or "") if dataclasses.is_dataclass(one) else ""
        if "Attributes:" not in text:
            continue
        for line in text.split("Attributes:\n", 1)[1].splitlines():
            if line.startswith("    ") and not line.startswith("     ") and ": " in line:
                names, meaning = line.strip().split(": ", 1)
                found |= dict.fromkeys(names.split(", "), meaning)
                last = names
            elif line.strip():
                for name in last.split(", "):
                    found[name] += f" {line.strip()}"
            else:
                break
    return found


def schema_tables() -> list[str]:
    """The keys of `shop.yaml`."""
    lines: list[str] = []
    for title, cls in (
        ("A table: `items`, `impressions`, `intents`, `users`", Table),
        ("`events` has these too", EventTable),
        ("A label of `events.labels`, where it is more than a list of events", EventLabel),
        ("A column, where it is more than a name", Column),
        ("`policies`", Policies),
    ):
        meanings, hints = _attributes(cls), typing.get_type_hints(cls)
        inherited = {one.name for one in dataclasses.fields(Table)} if cls is EventTable else set()
        own = [one for one in dataclasses.fields(cls) if one.name not in inherited]
        default = EventLabel(("click",)) if cls is EventLabel else cls()
        rows = [
            Key(one.name, _kind(hints[one.name]), _plain(getattr(default, one.name)), meanings.get(one.name, ""))
            for one in own
        ]
        lines += ["", f"**{title}**", "", *_table(rows)]
    lines += [
        "",
        "**Columns of the contract**",
        "",
        "| table | column | kind | needed | meaning |",
        "|---|---|---|---|---|",
    ]
    for table, columns in CONTRACT.items():
        for name, one in columns.items():
            meaning = one.meaning.replace("|", "\\|")
            lines.append(f"| {table} | `{name}` | {one.kind} | {'yes' if one.required else ''} | {meaning} |")
    return lines


def reference() -> str:
    """The page."""
    lines = [
        "# Settings",
        "",
        "Made from the source by `python -m tfx_pipeline.settings_reference`. A YAML file sets any of these keys, and",
        "`--set KEY=VALUE` one of them. `extends: NAME` lays another file under it; `preset: auto` sets sizes by",
        "the data (see the end), `preset: tiny`, `base` or `large` fixed ones. The defaults below are those of `base`.",
        "",
        *_table(list(keys())),
        "",
        "## preset: auto",
        "",
        "Settings for the data that `mim run` finds; other commands assume "
        f"{ASSUMED.items:,} items and {ASSUMED.impressions:,} impressions. Statistics",
        "are on, and stage 2 trains heads alone.",
        "",
        *_auto_table(),
        "",
        "## shop.yaml",
        "",
        "Beside the tables: `images`, the folder that `image_path` is relative to (default: that of `shop.yaml`), and",
        "`policies`.",
        *schema_tables(),
        "",
        "## Interests of the ranker",
        "",
        "`stages.ciubm.interests` lists names, or mappings with `name` and settings of its own: "
        + ", ".join(f"`{name}`" for name in INTERESTS)
        + ". See [models](models.md).",
        "",
    ]
    return "\n".join(lines)


def _auto_table() -> list[str]:
    """What `preset: auto` sets for shops of some sizes."""
    shops = [DataCounts(1_000, 20_000), DataCounts(20_000, 300_000), DataCounts(50_000, 2_000_000)]
    shops.append(DataCounts(200_000, 10_000_000))
    rows: dict[str, list[object]] = {}
    for counts in shops:
        for path, value in _flat(auto_values(counts)):
            shown = f"{len(value)} interests" if isinstance(value, list) and len(value) > 4 else value
            rows.setdefault(path, []).append(shown)
    header = " | ".join(f"{counts.items:,} items, {counts.impressions:,} impressions" for counts in shops)
    lines = [f"| setting | {header} |", "|---" * (len(shops) + 1) + "|"]
    varying = {path: values for path, values in rows.items() if len({str(value) for value in values}) > 1}
    return lines + [f"| `{path}` | {' | '.join(str(value) for value in values)} |" for path, values in varying.items()]


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


if __name__ == "__main__":
    print(reference(), end="")
