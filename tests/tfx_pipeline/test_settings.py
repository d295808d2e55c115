"""Settings from YAML and `--set`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mim_keras.config import ConfigError
from tfx_pipeline.ablation.run import ablate
from tfx_pipeline.ablation.variants import chosen
from tfx_pipeline.runners import local
from tfx_pipeline.settings import CONFIGS, Settings


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_shipped_configs_are_valid(name: str) -> None:
    assert Settings.load(name).stages.ciubm.history_length == 50


def test_overrides_reach_any_depth() -> None:
    settings = Settings.load("sample", ["stages.ciubm.training.epochs=9", "data.split.fractions=[0.6, 0.2, 0.2]"])
    assert settings.stages.ciubm.training.epochs == 9
    assert settings.data.split.fractions == (0.6, 0.2, 0.2)
    assert settings.stages.pretrain == Settings.load("sample").stages.pretrain


def test_columns_of_ids_may_have_their_own_least_counts() -> None:
    data = Settings.load("sample", ["data.min_counts={user_id: 5}", "data.vocabulary_min_count=3"]).data
    assert (data.min_count("user_id"), data.min_count("item_id")) == (5, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.ciubm.epochs=3", "stages.ciubm has no key 'epochs'"),
        ("data.split.by=week", "data.split.by is time or user; received 'week'"),
        ("data.split.fractions=[1, 1, 1]", "three positive numbers that add to 1"),
        ("data.max_rejected_fraction=2", r"in \[0, 1\]"),
        ("data.min_counts={page: 3}", r"data.min_counts are of user_id and item_id; received \['page'\]"),
        ("data.min_counts={user_id: -1}", "data.min_counts are whole numbers, 0 or more"),
        ("nonsense", "--set takes key=value"),
        ("name.deeper=1", "holds no further keys"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.load("sample", [override])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Shipped ones: ml-small, ml1m, ml1m-new, production, sample"):
        Settings.load(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Settings.load(tmp_path / "broken.yaml")
    (tmp_path / "size.yaml").write_text("preset: huge")
    with pytest.raises(ConfigError, match="preset is one of auto, tiny, base, large; received 'huge'"):
        Settings.load(tmp_path / "size.yaml")


def test_a_file_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("extends: ml-small\nname: own\nstages: {ciubm: {id_dim: 8}}\n")
    base, small, own = Settings.load("ml1m"), Settings.load("ml-small"), Settings.load(tmp_path / "own.yaml")
    assert own.name == "own"
    text = replace(base.stages.encoder.text, preset=None)
    assert (
        own.stages.encoder
        == small.stages.encoder
        == replace(base.stages.encoder, item_embedding_parts=("joint",), text=text)
    )
    assert own.stages.ciubm == replace(small.stages.ciubm, id_dim=8)
    assert own.data == base.data
    new = Settings.load("ml1m-new")
    assert new.data == replace(base.data, split=replace(base.data.split, new_items=10))
    assert new.stages == replace(base.stages, csft=replace(base.stages.csft, mask_known_positives=False))
    (tmp_path / "one.yaml").write_text(f"extends: {tmp_path / 'two.yaml'}\n")
    (tmp_path / "two.yaml").write_text(f"extends: {tmp_path / 'one.yaml'}\n")
    with pytest.raises(ConfigError, match=r"must not extend itself; received 'one.yaml -> two.yaml -> one.yaml'"):
        Settings.load(tmp_path / "one.yaml")
    (tmp_path / "broken.yaml").write_text("extends: none\n")
    with pytest.raises(ConfigError, match="none does not exist"):
        Settings.load(tmp_path / "broken.yaml")


def test_a_backbone_by_path_must_be_there(tmp_path: Path) -> None:
    for there in ("", "bert_base_en", str(tmp_path)):
        Settings.load("sample", [f"stages.encoder.text.preset={there}"]).require_presets()
    lacking = Settings.load("ml1m", [f"stages.encoder.text.preset={tmp_path / 'none'}"])
    for refused in (
        lambda: local.run(lacking, str(tmp_path), str(tmp_path / "root")),
        lambda: ablate(lacking, str(tmp_path), str(tmp_path / "root"), chosen("ids,full"), 1, "ids"),
    ):
        with pytest.raises(ConfigError, match=r"text.preset, where it is a path, .* received '/.*none'. `make minilm`"):
            refused()
    assert not (tmp_path / "root").exists()
