"""Bad settings fail when they are made, with the rule, what was received and the fix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mim_keras.config import (
    PRESETS,
    CiubmConfig,
    ConfigError,
    CsftConfig,
    EncoderConfig,
    PretrainConfig,
    StagesConfig,
    TextTowerConfig,
    TrainingConfig,
    from_mapping,
    preset,
    to_mapping,
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_round_trip(name: str) -> None:
    config = preset(name)
    assert from_mapping(StagesConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"history_lenght": 5}, "no key 'history_lenght'. Did you mean 'history_length'"),
        ({"history_length": "many"}, "history_length must be of type int; received 'many'"),
        ({"history_length": 0}, "history_length must be at least 1; received 0"),
        ({"id_dim": 7}, "multiple of ciubm.heads"),
        ({"modal": False, "ids": False}, "one of ciubm.modal and ciubm.ids must be on"),
        ({"training": {"strategy": "magic"}}, "strategy must be one of .*received 'magic'"),
        ({"training": {"learning_rate": -1}}, "learning_rate must be positive"),
        ({"modal": False, "fusion": False, "ensemble_at": 4}, "ensemble_at is 0 or more, and needs ciubm.modal"),
        ({"training": 3}, "training must be a mapping; received 3"),
    ],
)
def test_bad_ranker_settings(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(CiubmConfig, values)


@pytest.mark.parametrize(
    ("vector", "at"), [(["joint"], 16), (["text_features", "joint"], 16), (["joint", "text_features"], 8)]
)
def test_an_ensemble_parts_the_joint_view_from_the_towers(vector: list[str], at: int) -> None:
    tiny = to_mapping(preset("tiny"))
    fits = {**tiny, "encoder": {**tiny["encoder"], "vector": ["joint", "text_features"]}}
    assert from_mapping(StagesConfig, {**fits, "ciubm": {**tiny["ciubm"], "ensemble_at": 16}}).ciubm.ensemble_at == 16
    with pytest.raises(ConfigError, match=rf"parts the joint view .* received \({at}, 16, \('{vector[0]}'"):
        from_mapping(
            StagesConfig,
            {
                **tiny,
                "encoder": {**tiny["encoder"], "vector": vector},
                "ciubm": {**tiny["ciubm"], "ensemble_at": at},
            },
        )


def test_bad_shapes() -> None:
    with pytest.raises(ConfigError, match="image.size must be divisible"):
        from_mapping(EncoderConfig, {"image": {"size": 50, "widths": [8, 8, 8]}})
    wordless = {"text": {"layers": 0}, "lexical": {"terms": 9}, "vector": ["joint", "sentence_features"]}
    with pytest.raises(ConfigError, match=r"are what encoder.text says, which is off; received \('joint', 'sentence"):
        from_mapping(EncoderConfig, wordless)
    with pytest.raises(ConfigError, match=r"pretrain.temperature is above 0.01; received 0\."):
        PretrainConfig(temperature=0)
    with pytest.raises(ConfigError, match="a preset is one of tiny, base, paper"):
        preset("huge")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainingConfig, {"clip_norm": -1}),
        (TrainingConfig, {"patience": -1}),
        (TrainingConfig, {"steps_per_execution": 0}),
        (TextTowerConfig, {"heads": 0}),
        (CsftConfig, {"temperature": 0.01}),
        (CsftConfig, {"align_weight": -1}),
        (CsftConfig, {"max_steps_per_epoch": -1}),
        (CsftConfig, {"levels": "pools", "hard": 0}),
        (CsftConfig, {"same_category": 4}),
        (CsftConfig, {"momentum": 0.9, "queue_size": 0}),
        (CsftConfig, {"momentum": 0.9, "levels": "pools"}),
        (CiubmConfig, {"heads": 0}),
        (CiubmConfig, {"id_dim": 0}),
        (CiubmConfig, {"modal_dim": 0}),
        (CiubmConfig, {"simtier_bins": 0}),
        (CiubmConfig, {"hidden": [0]}),
        (CiubmConfig, {"cross_layers": -1}),
        (CiubmConfig, {"auxiliary_weight": -1}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(kind: type, values: dict) -> None:
    first = next(iter(values))
    with pytest.raises(ConfigError, match=rf"(?s)(csft.(hard|{first})|{first}).*; received .*"):
        from_mapping(kind, values)


def test_a_setting_inside_a_stage_leaves_the_others_as_the_stage_has_them() -> None:
    whole = CiubmConfig().training
    assert from_mapping(CiubmConfig, {"training": {"epochs": 8}}).training == replace(whole, epochs=8)
    assert (whole.jit_compile, whole.steps_per_execution, whole.batch_size) == (True, 10, 1024)
    deep = from_mapping(StagesConfig, {"ciubm": {"training": {"seed": 3}}, "pretrain": {"training": {"seed": 3}}})
    assert deep.ciubm.training == replace(whole, seed=3)
    assert deep.pretrain.training == replace(PretrainConfig().training, seed=3)
    assert preset("paper").ciubm.training == replace(whole, batch_size=8192)
