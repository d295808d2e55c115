"""A roll-out changes two fields of one entry of models.config, and nothing else of its text."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import config_text, messages

TEXT = """# Ours.  Ask the team { before } a change.
model_config_list {
  # First "the encoder".
  config {
    name: "encoder"  # not the ranker
    base_path: "/models/encoder"
    model_platform: "tensorflow"
    future_field { a: 1 b: "}" }  # of a later server
  }
  config: <
    name: "ran" 'ker';
    base_path: '/models/#ranker',
    model_type: TENSORFLOW
    # Pinned since May.
    model_version_policy { specific { versions: 1 versions: 2 } }  # see the wiki
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
    logging_config { sampling_config { per_task_sampling_configs { dc: "aa" sampling_rate: -1 } } }  # stays
    # The end of the ranker.
  >
}
"""


def entry(name: str, versions: list[int], labels: dict[str, int]) -> Any:
    made = messages.ModelConfig(name=name, version_labels=labels)
    if versions:
        made.model_version_policy.specific.versions.extend(versions)
    return made


def test_all_else_stays_as_it_is_written() -> None:
    changed = config_text.with_entry(TEXT, entry("ranker", [2, 3], {"stable": 2}))
    assert changed == TEXT.replace("versions: 1 versions: 2", "versions: 2 versions: 3").replace(
        """    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
""",
        """    version_labels { key: "stable" value: 2 }
""",
    )
    assert config_text.with_entry(TEXT, entry("ranker", [1, 2], {"stable": 1, "canary": 2})) == TEXT
    gone = config_text.with_entry(TEXT, entry("ranker", [], {}))
    assert "# Pinned since May.\n  # see the wiki\n    logging_config" in gone


def test_an_entry_without_them_gets_them_at_its_end() -> None:
    changed = config_text.with_entry(TEXT, entry("encoder", [7], {"stable": 7}))
    line = '    future_field { a: 1 b: "}" }  # of a later server\n'
    assert changed == TEXT.replace(
        line,
        line + '    model_version_policy { specific { versions: 7 } }\n    version_labels { key: "stable" value: 7 }\n',
    )
    one_line = 'model_config_list{config:[{name:"a"},{name:"b" base_path:"/b"}]}'
    changed = config_text.with_entry(one_line, entry("a", [1], {}))
    assert changed == one_line.replace('"a"', '"a" model_version_policy { specific { versions: 1 } }')


def test_fields_that_are_not_known() -> None:
    assert config_text.unknown_fields(TEXT) == ["future_field", "per_task_sampling_configs"]
    assert config_text.parse(TEXT).model_config_list.config[1].model_type == 1
    assert config_text.unknown_fields("model_config_list {}") == []


def test_what_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="none is not listed"):
        config_text.with_entry('model_config_list { config { name: "a" } }', entry("none", [1], {}))
    with pytest.raises(text_format.ParseError):
        config_text.with_entry("model_config_list {", entry("a", [1], {}))


names = st.text(st.characters(codec="utf-8"), max_size=6)


@given(
    st.lists(st.tuples(names.filter(bool), names, st.lists(st.integers(1, 9)),
                       st.dictionaries(names, st.integers(1, 9))),
             min_size=1, max_size=4, unique_by=lambda one: one[0]),
    st.integers(0, 3), st.lists(st.integers(1, 9)), st.dictionaries(names, st.integers(1, 9)), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_configuration_becomes_what_was_asked_for(
    models: Any, which: int, versions: list[int], labels: dict[str, int], one_line: bool
) -> None:
    config = messages.ModelServerConfig()
    for name, path, own_versions, own_labels in models:
        config.model_config_list.config.add().CopyFrom(entry(name, own_versions, own_labels))
        config.model_config_list.config[-1].base_path = path
    text = text_format.MessageToString(config, as_one_line=one_line, as_utf8=True)
    name = models[which % len(models)][0]
    changed = config_text.with_entry(text, entry(name, versions, labels))
    model = config.model_config_list.config[which % len(models)]
    model.ClearField("model_version_policy")
    model.ClearField("version_labels")
    model.MergeFrom(entry("", versions, labels))
    assert config_text.parse(changed) == config
