"""N-grams and their LSA table, against scikit-learn's LSA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from mim_keras.config import ConfigError, LSATowerConfig, preset
from mim_keras.layers.towers import LSATower
from mim_keras.preprocessing.ngrams import NGramTokenizer, fit_lsa, lsa_group_dims
from mim_keras.preprocessing.text import TextPreprocessor

pytestmark = pytest.mark.any_backend

TEXTS = [
    "red striped mug",
    "blue striped lamp",
    "red lamp red mug",
    "a blue mug, a red lamp!",
    "",
    "green rug",
    "green lamp",
]
CONFIG = LSATowerConfig(max_features=100, min_df=2, max_terms=6, output_dim=3, max_tags=0)


def features(texts: list[str], config: LSATowerConfig = CONFIG, catalogue: list[str] = TEXTS) -> np.ndarray:
    names, table = fit_lsa(catalogue, config)
    tower = LSATower(len(names), lsa_group_dims(names, config))
    tower.build((None, config.max_terms), (None, config.max_terms))
    tower.set_table(table)
    return keras.ops.convert_to_numpy(tower(*NGramTokenizer(config, names)(texts)))


def test_texts_have_the_similarities_of_scikit_learns_lsa() -> None:
    texts = [text for text in TEXTS if text]
    pattern = r"(?u)\b\w+\b"
    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=pattern).fit_transform(texts)
    expected = TruncatedSVD(3, algorithm="arpack").fit_transform(tfidf)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = features(texts)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)  # a direction has no sign


def test_terms_occur_in_enough_texts_and_once_each() -> None:
    names, table = fit_lsa(TEXTS, CONFIG)
    assert set(names) == {"red", "blue", "striped", "mug", "lamp", "green", "red lamp"}
    assert table.shape == (len(names), 3)
    ids, weights = (values.numpy() for values in NGramTokenizer(CONFIG, names)(["Red, RED mug!", "nothing known", ""]))
    assert ids.shape == weights.shape == (3, 6)
    found = {names[i - 1]: weight for i, weight in zip(ids[0], weights[0], strict=True) if i}
    assert found == pytest.approx({"red": 1 + np.log(2), "mug": 1})
    assert ids[0, 0] > ids[0, 1] > ids[0, 2] == 0
    assert not ids[1:].any()
    assert not weights[1:].any()


def test_a_text_too_long_keeps_its_rarest_terms() -> None:
    names, _ = fit_lsa(TEXTS, CONFIG)
    text = ", ".join(name for name in names if " " not in name)
    everything, few = (
        NGramTokenizer(LSATowerConfig(max_features=100, max_terms=n), names)([text])[0].numpy()[0] for n in (20, 2)
    )
    assert few.tolist() == sorted(everything, reverse=True)[:2]


def test_a_text_of_unknown_words_is_zero() -> None:
    assert not features(["quite other words", ""]).any()


def test_each_field_of_tags_is_a_group_of_its_own() -> None:
    config = LSATowerConfig(max_features=100, min_df=2, max_terms=8, output_dim=3, tag_dim=2)
    tags = ["#Kitchen #by:ann #by:bo", "#by:cy", "#kitchen, #by:ann", "#by:bo", "#by:cy", "", "#x #by:bo"]
    texts = [f"{text} {own}" for text, own in zip(TEXTS, tags, strict=True)]
    names, _ = fit_lsa(texts, config)
    assert names[-4] == "#kitchen"
    assert set(names[-3:]) == {"#by:ann", "#by:bo", "#by:cy"}
    assert "kitchen" not in names
    assert lsa_group_dims(names, config) == (3, 1, 2)  # words; one tag, a column of its own; three, in two directions
    found = features(["red mug #kitchen, #by:ann", "#by:ann", "red mug", "#unknown"], config, texts)
    np.testing.assert_allclose(np.linalg.norm(found[0, :3]), 1, atol=1e-6)
    np.testing.assert_allclose(found[0, :3], found[2, :3], atol=1e-6)
    assert found[0, 3] == 1
    np.testing.assert_allclose(found[0, 4:], found[1, 4:], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found[1, 4:]), 1, atol=1e-6)
    assert not found[1, :4].any()
    assert not found[2, 3:].any()
    assert not found[3].any()


def test_a_small_catalogue_leaves_columns_empty() -> None:
    wide = features(["red mug"], LSATowerConfig(max_features=100, min_df=2, max_terms=6, output_dim=50, max_tags=0))
    assert wide.shape == (1, 50)
    assert not wide[:, 10:].any()
    np.testing.assert_allclose(np.linalg.norm(wide), 1, atol=1e-5)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no term occurs in lsa.min_df = 9 of 6 texts"):
        fit_lsa(TEXTS, LSATowerConfig(max_features=10, min_df=9))


def test_a_tower_may_read_the_title_or_one_line() -> None:
    texts = [f"{text}\n{other}\n#by:ann" for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    for of, own in (("title", TEXTS), ("line 1", TEXTS[::-1])):
        config = replace(CONFIG, field=of)
        assert fit_lsa(texts, config)[0] == fit_lsa(own, CONFIG)[0]
        np.testing.assert_allclose(features(texts, config, texts), features(own, catalogue=own), atol=1e-6)
    assert not features(["red mug", "red mug\n"], replace(CONFIG, field="line 1"), texts).any()  # there is no such line
    with pytest.raises(ConfigError, match="all, title or line N"):
        replace(CONFIG, field="line 0")


def test_character_ngrams_find_parts_of_words() -> None:
    catalogue = ["Lamps", "lampshade", "lamp 3", "mug", "mugs", "the mugs"]
    config = LSATowerConfig(max_features=200, min_df=2, max_terms=60, output_dim=3, max_tags=0, char_ngrams=True)
    names, _ = fit_lsa(catalogue, config)
    assert {"l a", "l a m", "l a m p", "m u g s"} <= set(names)
    assert not any(len(name.split(" ")) > 4 or "3" in name for name in names)
    found = features(["lamp", "lampe", "mugg"], config, catalogue)
    assert found[0] @ found[1] > 0.9
    assert abs(found[0] @ found[2]) < 0.3


def test_character_ngrams_over_a_line_break_are_read_again(tmp_path: Path) -> None:
    config = replace(CONFIG, char_ngrams=True, field="all", min_df=1)
    texts = ["red\nmug", "blue\nmug", "red\nlamp"]
    terms = fit_lsa(texts, config)[0]
    assert any(" " in term for term in terms)
    assert not any("\n" in term for term in terms)
    assert fit_lsa([text.replace("\n", " ") for text in texts], config)[0] == terms
    encoder = replace(preset("tiny").encoder, lsa=config)
    text, _ = TextPreprocessor.fit(encoder, texts)
    text.save_to_preset(tmp_path)
    again = TextPreprocessor.from_preset(tmp_path, encoder)
    for name, values in text(texts).items():
        np.testing.assert_array_equal(again(texts)[name], values, err_msg=name)
