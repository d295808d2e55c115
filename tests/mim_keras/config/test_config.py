"""Bad settings fail when they are made, with the rule, what was received and the fix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mim_keras.config import (
    BASELINES,
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
        ({"id_dim": 7}, "multiple of the heads of semantic_target_attention"),
        (
            {"interests": [], "use_content": False, "use_ids": False},
            "one of ciubm.use_ids and ciubm.use_content must be true",
        ),
        ({"training": {"strategy": "magic"}}, "strategy is one of .*received 'magic'"),
        ({"training": {"learning_rate": -1}}, "learning_rate must be positive"),
        (
            {"interests": ["mean_pooling"], "use_content": False, "ensemble_split_dim": 4},
            "ensemble_split_dim needs ciubm.use_con",
        ),
        (
            {"interests": ["mean_poling"]},
            r"interest has a known name; received 'mean_poling'. Known names: mean_pooling,",
        ),
        ({"interests": ["sim_tier", "sim_tier"]}, r"interests occurs once; received"),
        ({"interests": [{"name": "sim_tier", "heads": 2}]}, "sim_tier has no setting heads; received 2. It has bins"),
        ({"interests": [3]}, r"interests\[0\] is the name of an interest, or a mapping with `name`; received 3"),
        ({"use_ids": False}, "target_attention in ciubm.interests need ciubm.use_ids; received False"),
        ({"interests": ["mean_pooling"], "search_top_k": 5}, "needs an attention among ciubm.interests; received 5"),
        ({"training": 3}, "training must be a mapping; received 3"),
        ({"id_embedding_update": "adagrad"}, "ciubm.id_embedding_update is one of .*received 'adagrad'"),
        ({"id_embedding_learning_rate": 2.0}, r"needs ciubm.id_embedding_update .* received \(2.0, 'dense'\)"),
        ({"user_id_table_rows": 5}, r"user_id_table_rows needs ciubm.user_id_table .* received \(5, 'full'\)"),
        ({"item_id_table": "two_hash", "item_id_table_rows": -1}, "item_id_table_rows must be 0 or more; received -1"),
    ],
)
def test_bad_ranker_settings(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(CiubmConfig, values)


@pytest.mark.parametrize(
    ("parts", "split_dim"), [(["joint"], 16), (["text_features", "joint"], 16), (["joint", "text_features"], 8)]
)
def test_an_ensemble_separates_the_joint_view_from_tower_features(parts: list[str], split_dim: int) -> None:
    tiny = to_mapping(preset("tiny"))
    fits = {**tiny, "encoder": {**tiny["encoder"], "item_embedding_parts": ["joint", "text_features"]}}
    assert (
        from_mapping(
            StagesConfig, {**fits, "ciubm": {**tiny["ciubm"], "ensemble_split_dim": 16}}
        ).ciubm.ensemble_split_dim
        == 16
    )
    with pytest.raises(ConfigError, match=rf"separates the joint view .* received \({split_dim}, 16, \('{parts[0]}'"):
        from_mapping(
            StagesConfig,
            {
                **tiny,
                "encoder": {**tiny["encoder"], "item_embedding_parts": parts},
                "ciubm": {**tiny["ciubm"], "ensemble_split_dim": split_dim},
            },
        )


def test_bad_shapes() -> None:
    with pytest.raises(ConfigError, match="image.image_size must be divisible"):
        from_mapping(EncoderConfig, {"image": {"image_size": 50, "filters": [8, 8, 8]}})
    wordless = {
        "text": {"layers": 0},
        "lsa": {"max_features": 9},
        "item_embedding_parts": ["joint", "sentence_features"],
    }
    with pytest.raises(
        ConfigError,
        match=r"sentence_features in encoder.item_embedding_parts needs its tower, .* received \('joint', 'sen",
    ):
        from_mapping(EncoderConfig, wordless)
    with pytest.raises(ConfigError, match=r"pretrain.temperature must be above 0.01; received 0\."):
        PretrainConfig(temperature=0)
    with pytest.raises(ConfigError, match="a preset is one of tiny, base, large"):
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
        (CsftConfig, {"loss_preset": "negatives", "num_hard_negatives": 0}),
        (CsftConfig, {"num_same_category_negatives": 4}),
        (CsftConfig, {"momentum": 0.9, "queue_size": 0}),
        (CsftConfig, {"momentum": 0.9, "loss_preset": "negatives"}),
        (CiubmConfig, {"interests": [{"name": "target_attention", "heads": 0}]}),
        (CsftConfig, {"queue_size": 100, "training": {"batch_size": 256}}),
        (CsftConfig, {"trainable": "lora-0"}),
        (CsftConfig, {"num_hardest_negatives": -1}),
        (EncoderConfig, {"embeddings": [{"name": "a b", "dim": 3}]}),
        (EncoderConfig, {"embeddings": [{"name": "a", "dim": 3, "modality": "sound"}]}),
        (CiubmConfig, {"id_dim": 0}),
        (CiubmConfig, {"content_dim": 0}),
        (CiubmConfig, {"hidden": [0]}),
        (CiubmConfig, {"cross_layers": -1}),
        (CiubmConfig, {"content_loss_weight": -1}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, values: dict) -> None:
    with pytest.raises(ConfigError, match=r"(?s)\w.*; received .*\. \w+"):
        from_mapping(kind, values)


def test_a_setting_inside_a_stage_keeps_the_stages_other_defaults() -> None:
    whole = CiubmConfig().training
    assert from_mapping(CiubmConfig, {"training": {"epochs": 8}}).training == replace(whole, epochs=8)
    assert (whole.jit_compile, whole.steps_per_execution, whole.batch_size) == (True, 10, 1024)
    deep = from_mapping(StagesConfig, {"ciubm": {"training": {"seed": 3}}, "pretrain": {"training": {"seed": 3}}})
    assert deep.ciubm.training == replace(whole, seed=3)
    assert deep.pretrain.training == replace(PretrainConfig().training, seed=3)
    assert preset("large").ciubm.training == replace(whole, batch_size=8192)


def test_a_ranker_without_content_or_ids_keeps_what_it_can() -> None:
    whole = replace(CiubmConfig(), search_top_k=9, ensemble_split_dim=4)
    ids, content = whole.without_content(), whole.without_ids()
    assert [one.name for one in ids.interests] == ["mean_pooling", "target_attention"]
    assert (ids.use_content, ids.search_top_k, ids.ensemble_split_dim, ids.needs_similarity) == (False, 0, 0, False)
    assert "target_attention" not in [one.name for one in content.interests]
    assert len(content.interests) == 4
    assert (whole.num_attention_heads, ids.num_attention_heads) == (4, 1)
    assert whole.without_interest("sim_tier").interest("sim_tier") is None
    assert {name: from_mapping(CiubmConfig, changes).use_content for name, changes in BASELINES.items()} == {
        "din": False,
        "sim": True,
        "dcn": False,
    }


def test_what_is_trained_of_a_tower_is_read_from_its_name() -> None:
    read = [CsftConfig(trainable=name) for name in ("all", "head", "residual", "top-2", "lora-8")]
    assert [(one.frozen_towers, one.unfreeze_top_blocks, one.lora_rank) for one in read] == [
        (False, 0, 0),
        (True, 0, 0),
        (True, 0, 0),
        (False, 2, 0),
        (False, 0, 8),
    ]
