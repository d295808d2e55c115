"""Changes of a ModelServerConfig in text form that leave all else in it as it is written: comments, order, layout, and
fields that are not declared here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format

from serving import messages

# What a roll-out changes of a model's entry.
CHANGED = ("model_version_policy", "version_labels")
_TOKEN = re.compile(r"""\s+|\#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[{}<>\[\]:;,]|[^\s\#{}<>\[\]:;,"']+""")
_ENDS = {"{": "}", "<": ">"}


@dataclass
class _Message:
    """A message in the text: its fields, and where what is between its braces starts and ends."""

    start: int
    end: int = 0
    fields: list[_Field] = field(default_factory=list)

    def named(self, *names: str) -> list[_Field]:
        return [one for one in self.fields if one.name in names]


@dataclass
class _Field:
    """A field in the text, with the messages that are its value: none of a scalar, several of a list."""

    name: str
    start: int
    end: int = 0
    messages: list[_Message] = field(default_factory=list)


def parse(text: str) -> Any:
    """The ModelServerConfig; fields that are not declared here are left out, see `unknown_fields`.

    Raises:
        text_format.ParseError: it is none.
    """
    return text_format.Parse(text, messages.ModelServerConfig(), allow_unknown_field=True)


def unknown_fields(text: str) -> list[str]:
    """Names of the fields that are not declared here."""
    return sorted(set(_unknown(_read(text), messages.ModelServerConfig.DESCRIPTOR)))


def _unknown(message: _Message, descriptor: Any) -> Iterable[str]:
    for one in message.fields:
        known = descriptor.fields_by_name.get(one.name)
        if known is None:
            yield one.name
        elif known.message_type is not None:
            for value in one.messages:
                yield from _unknown(value, known.message_type)


def with_entry(text: str, entry: Any) -> str:
    """The text with the version policy and the labels of the ModelConfig `entry` in place of those of its model.

    Raises:
        ValueError: the model is not listed, or the text cannot be changed so.
    """
    expected = parse(text)
    if entry.name not in [model.name for model in expected.model_config_list.config]:
        raise ValueError(f"{entry.name} is not listed")
    for model in expected.model_config_list.config:
        if model.name == entry.name:
            for name in CHANGED:
                if _only(model, name) != _only(entry, name):
                    text = _replaced(text, entry.name, name, _lines(entry, name))
                    model.ClearField(name)
                    model.MergeFrom(_only(entry, name))
    if parse(text) != expected:
        raise ValueError(f"the entry of {entry.name} cannot be changed in its text form")
    return text


def _only(model: Any, name: str) -> Any:
    """A ModelConfig of that field alone."""
    made = messages.ModelConfig()
    made.CopyFrom(model)
    for described, _ in model.ListFields():
        if described.name != name:
            made.ClearField(described.name)
    return made


def _lines(entry: Any, name: str) -> list[str]:
    """The field in text form, a line for each label."""
    if name != "version_labels":
        line = text_format.MessageToString(_only(entry, name), as_one_line=True)
        return [line] if line else []
    return [
        text_format.MessageToString(messages.ModelConfig(version_labels={label: version}), as_one_line=True)
        for label, version in sorted(entry.version_labels.items())
    ]


def _place(text: str, name: str) -> _Message:
    for models in _read(text).named("model_config_list"):
        for one in models.messages:
            for listed in one.named("config"):
                for place in listed.messages:
                    model = text_format.Parse(
                        text[place.start : place.end], messages.ModelConfig(), allow_unknown_field=True
                    )
                    if model.name == name:
                        return place
    raise ValueError(f"{name} is not listed")


def _replaced(text: str, model: str, name: str, lines: list[str]) -> str:
    """The text with `lines` where the model's field stood; at the end of its entry where it had none."""
    place = _place(text, model)
    found = place.named(name)
    for one in reversed(found[1:]):
        text = _cut(text, one.start, one.end, "")
    if found:
        return _cut(text, found[0].start, found[0].end, _separator(text, found[0].start).join(lines))
    last = place.fields[-1]
    rest = re.compile(r"[ \t]*(#[^\n]*)?(?=\n)").match(text, last.end)
    end = rest.end() if rest is not None else last.end
    separator = _separator(text, last.start)
    return text[:end] + "".join(separator + line for line in lines) + text[end:]


def _separator(text: str, start: int) -> str:
    """What stands between a field and those that are written after it."""
    indent = _indent(text, start)
    return " " if indent is None else "\n" + indent


def _indent(text: str, start: int) -> str | None:
    """The white space before a field that begins a line; None for another field."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return before if not before.strip() else None


def _cut(text: str, start: int, end: int, instead: str) -> str:
    """The text with `instead` in a place; a line that is empty then goes with it."""
    if not instead and _indent(text, start) is not None:
        start = text.rfind("\n", 0, start) + 1
        if (line := re.compile(r"[ \t]*\n").match(text, end)) is not None:
            end = line.end()
    return text[:start] + instead + text[end:]


def _read(text: str) -> _Message:
    """Where the fields of a text that `parse` takes are.

    Raises:
        ValueError: the text has a form that is not understood here.
    """
    tokens = [found for found in _TOKEN.finditer(text) if not (found[0].isspace() or found[0].startswith("#"))]
    tokens.reverse()
    try:
        return _message(tokens, _Message(0), "")
    except IndexError as error:
        raise ValueError("the text ends too early") from error


def _message(tokens: list[re.Match[str]], message: _Message, closing: str) -> _Message:
    while tokens or closing:
        token = tokens.pop()
        if token[0] == closing:
            message.end = token.start()
            return message
        one = _Field(token[0], token.start())
        if token[0] == "[":  # of an extension, or of an Any
            while tokens.pop()[0] != "]":
                pass
        if tokens[-1][0] == ":":
            tokens.pop()
        one.end = _value(tokens, one)
        if tokens and tokens[-1][0] in (";", ","):
            one.end = tokens.pop().end()
        message.fields.append(one)
    return message


def _value(tokens: list[re.Match[str]], one: _Field) -> int:
    """Reads a value; returns where it ends."""
    token = tokens.pop()
    if token[0] in _ENDS:
        inner = _message(tokens, _Message(token.end()), _ENDS[token[0]])
        one.messages.append(inner)
        return inner.end + 1
    if token[0] == "[":
        while tokens[-1][0] != "]":
            _value(tokens, one)
            if tokens[-1][0] == ",":
                tokens.pop()
        return tokens.pop().end()
    while tokens and (token[0] == "-" or (token[0][0] in "\"'" and tokens[-1][0][0] in "\"'")):
        token = tokens.pop()  # a sign, or a text in several parts
    return token.end()
