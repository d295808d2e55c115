"""Settings of the interests: what the ranker reads from a history about a target item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from mim_keras.config.mapping import from_mapping, require


class InterestKind(NamedTuple):
    """What an interest needs: id embeddings, content embeddings, a part in the fused attention pass; its settings."""

    reads_ids: bool
    reads_content: bool
    attends: bool
    settings: tuple[str, ...]


INTERESTS = {
    # the mean of the history's embeddings, and its products with the target
    "mean_pooling": InterestKind(False, False, False, ()),
    # scaled dot-product attention of the target over the history, by ids and categories
    "target_attention": InterestKind(True, False, True, ("heads",)),
    # DIN's attention: an MLP weighs each behaviour against the target, by ids and categories
    "din_attention": InterestKind(True, False, False, ("hidden_dim",)),
    # attention by the cosine similarity of content embeddings and a learned term
    "modal_attention": InterestKind(False, True, True, ("temperature",)),
    # SA-TA: attention by ids, by content and by their product
    # (by categories where there are no ids)
    "semantic_target_attention": InterestKind(False, True, True, ("heads", "temperature")),
    # a histogram of the cosine similarities of the target and the history
    "sim_tier": InterestKind(False, True, False, ("bins",)),
    # for each attribute, the share of the history that has a value of the target
    "attribute_match": InterestKind(False, False, False, ()),
    # cosine similarities of target and history in a space that is learned from clicks, by content and attributes
    "learned_similarity": InterestKind(False, True, False, ("hidden_dim",)),
}


@dataclass(frozen=True)
class Interest:
    """An interest and its settings.  In YAML: its name, or a mapping with `name`.

    Example:
        >>> from mim_keras.config import Interest
        >>> Interest.from_plain({"name": "sim_tier", "bins": 10}, "interests[0]").bins
        10
    """

    name: str  # one of INTERESTS
    heads: int = 1  # of target_attention and semantic_target_attention
    temperature: float = 0.1  # initial value, which is learned; of modal_attention and semantic_target_attention
    hidden_dim: int = 64  # of din_attention and learned_similarity
    bins: int = 20  # of sim_tier

    @property
    def kind(self) -> InterestKind:
        """What it needs."""
        return INTERESTS[self.name]

    @staticmethod
    def from_plain(value: Any, where: str) -> Interest:
        """An interest from its name or its mapping.

        Raises:
            ConfigError: an unknown name, or a setting that the interest does not have.
        """
        if isinstance(value, Interest):
            return value
        values = {"name": value} if isinstance(value, str) else value
        named = isinstance(values, Mapping) and "name" in values
        fix = f"Known names: {', '.join(INTERESTS)}."
        require(named, f"{where} is the name of an interest, or a mapping with `name`", value, fix)
        return from_mapping(Interest, values, where)

    def __post_init__(self) -> None:
        fix = f"Known names: {', '.join(INTERESTS)}."
        require(self.name in INTERESTS, "an interest has a known name", self.name, fix)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            has = field.name in self.kind.settings
            fix = f"It has {', '.join(self.kind.settings) or 'none'}."
            require(has or value == field.default, f"{self.name} has no setting {field.name}", value, fix)
            require(value > 0, f"{field.name} of {self.name} must be positive", value, "Raise it.")


def attend(interests: tuple[Interest, ...]) -> bool:
    """Whether one of them is an attention over the history, which a search can shorten."""
    return any(interest.kind.attends or interest.name == "din_attention" for interest in interests)


def check_interests(interests: tuple[Interest, ...], id_dim: int) -> None:
    """Checks a list of interests.

    Raises:
        ConfigError: an interest occurs twice, or its heads do not divide the width of the id embeddings.
    """
    names = [interest.name for interest in interests]
    require(len(set(names)) == len(names), "each of ciubm.interests occurs once", names, "Remove one.")
    for interest in interests:
        rule = f"ciubm.id_dim must be a multiple of the heads of {interest.name}"
        require(id_dim % interest.heads == 0, rule, (id_dim, interest.heads), "Change one of them.")
