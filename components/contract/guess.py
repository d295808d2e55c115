"""Guesses the schema of a shop's own export: the first draft of a `shop.yaml`, each guess with an example."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from components.contract.files import SUFFIXES
from components.contract.sample import Sample, read_sample
from components.contract.schema import CONTRACT, RESERVED, Schema, safe_name
from components.contract.tables import ContractError
from components.contract.values import (
    EARLIEST,
    LATEST,
    MICROS,
    Parsed,
    always_clicked,
    is_list,
    parse_ids,
    parse_integers,
    parse_numbers,
    parse_text,
    parse_times,
)
from components.item_attributes import LEARNED

SEPARATORS = (" > ", ">", "|", " / ", "/", ";", ",")
SLASHED = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y")
WRITTEN = (
    "%d %b %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%B %d, %Y",
    "%d-%m-%Y",
    "%d-%m-%Y %H:%M:%S",
    "%d.%m.%y",
    "%d.%m.%y %H:%M",
)
IMAGE_NAME = r"(?i)\.(jpe?g|png|webp|gif|avif|bmp|tiff?)([?#].*)?$"
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")

# Words in names of columns, the strongest first; matched as parts between separators, then as substrings.
WORDS: dict[str, tuple[str, ...]] = {
    "item_id": (
        "item_id", "sku", "product_id", "productid", "article_id", "artikelnr", "artikelnummer", "artikel_nr", "item",
        "handle", "asin", "ean", "gtin", "artikel", "article", "product", "produkt", "produkt_id", "variant_id",
        "material", "movie_id", "id",
    ),
    "title": (
        "title", "titel", "bezeichnung", "product_name", "item_name", "prod_name", "name", "headline", "商品名", "标题",
        "nazwa", "nombre", "nom",
    ),
    "text": ("text", "description", "beschreibung", "body", "detail", "details", "desc", "content", "plot"),
    "category": (
        "category", "categories", "kategorie", "kategorien", "warengruppe", "product_type", "taxonomy", "department",
        "genre", "genres", "group", "gruppe", "type", "sparte", "カテゴリ", "分类", "kategoria", "categoria",
    ),
    "image_path": ("image_path", "image", "picture", "bild", "img", "photo", "foto", "image_url", "image_file"),
    "created_at": ("created_at", "online_seit", "created", "launch", "published", "release", "online", "date", "datum"),
    "user_id": (
        "user_id", "user", "visitor", "visitorid", "customer", "kunde", "klient",
        "utilisateur", "kunden_id", "client", "member", "account",
        "reader", "viewer", "shopper", "buyer", "subscriber", "person", "pseudo_id", "device_id", "uid", "cookie",
        "session", "session_id", "会員", "顧客", "ユーザー", "用户", "usuario",
    ),
    "timestamp": (
        "timestamp", "time", "zeit", "event_time", "ts", "when", "datetime", "horodatage", "czas", "logged_at", "date",
        "datum",
        "dat", "at", "日時", "時刻", "时间", "data", "fecha",
    ),
    "clicked": (
        "clicked", "is_click", "click", "klick", "geklickt", "clic", "label", "target", "klik", "クリック", "点击",
    ),
    "event": ("event", "ereignis", "event_type", "event_name", "action", "aktion", "type", "typ", "behavior"),
    "request_id": ("request_id", "request", "search_id", "query_id", "page_view_id", "session_id", "session"),
    "event_id": ("event_id", "uuid", "message_id", "ereignis_id"),
    "sequence": ("sequence", "position", "pos", "rank", "slot"),
}  # fmt: skip
LISTS = re.compile(r"(?<!wish)list|impression|exposure|display|show|seen")  # names of views of items among others
PAGES = ("page", "search", "screen", "wish")  # of views, those of any page
VIEWS = (
    "view",
    "impression",
    "seen",
    "show",
    "display",
    "ansicht",
    "gesehen",
    "pageview",
    "exposure",
    "pv",
    "wyświetl",
    "表示",
    "閲覧",
    "浏览",
)
CLICKS = ("click", "klick", "klik", "clic", "open", "select", "tap", "クリック", "点击")
LEAK = 0.9  # AUC of one column alone
LATER = 86_400  # seconds that an order or a cart may come after the view
CODE = re.compile(
    r"(^|[_\W])(code|id|key|nr|no|number|nummer|sku|class|type|typ|group|gruppe)$"
)  # ends of names of codes
# Names of columns of items that count what users did.
COUNTS = re.compile(
    r"(^|[_\W])(clicks?|klicks|views?|impressions?|ctr|sales|sold|orders|purchases|add_to_carts?)([_\W]|\d|$)"
)
OUTCOMES = (
    "bought",
    "conversion",
    "convert",
    "dwell",
    "rating",
    "revenue",
    "umsatz",
    "label",
    "add_to",
    "paid",
    "like",
    "kupi",
    "compra",
    "achat",
    "購入",
    "购买",
)
OTHERS = (
    *("cart", "basket", "warenkorb", "order", "purchase", "buy", "transaction", "bestell", "kauf", "fav", "wish"),
    *("checkout", "koszyk", "zakup", "カート", "購入", "购买"),
)


@dataclass(frozen=True)
class Guess:
    """One line of what was guessed.

    Attributes:
        key: In `shop.yaml`, e.g. `items.item_id`.
        value: What was guessed.
        why: An example value, or the reason.
    """

    key: str
    value: str
    why: str


def guess_schema(
    items: Path,
    log: Path,
    folder: Path,
    log_kind: str = "",
    images: Path | None = None,
    users: Path | None = None,
) -> tuple[dict[str, Any], list[Guess]]:
    """A draft of `shop.yaml`, as plain values, and what was guessed.

    Args:
        items: File or folder of the items.
        log: File or folder of events or impressions.
        folder: Where `shop.yaml` will lie.
        log_kind: `events` or `impressions`; found out if empty.
        images: Folder of the pictures, where it is not the one of the items.
        users: File or folder of the users, where there is one.

    Raises:
        ContractError: a table cannot be read, or lacks a column without which nothing can be learned.
    """
    item_sample, log_sample = read_sample(items), read_sample(log)
    guesses: list[Guess] = []
    item_id, log_item = _matching_ids(item_sample, log_sample)
    item_columns = {"item_id": item_id}
    share = _overlap(log_sample.distinct(log_item), item_sample.distinct(item_id))
    item_columns |= _roles(item_sample, ("title", "text", "category", "image_path", "created_at"), {item_id})
    values: dict[str, Any] = {"items": _table(item_sample, folder)}
    _append_options(guesses, "items", item_sample)
    values["items"]["columns"] = _described(item_sample, "items", item_columns, guesses)
    _append_reason(guesses, "items.item_id", f"{share:.0%} of the log's {log_item} are among them")
    root = _image_root(item_sample, item_columns.get("image_path"), folder, images, guesses)
    if root:
        values["images"] = root

    log_columns = {"item_id": log_item}
    log_columns |= _roles(log_sample, ("timestamp", "user_id"), {log_item})
    for name in ("timestamp", "user_id"):
        if name not in log_columns:
            raise _no_role(log_sample, name, log_kind or "impressions")
    taken = set(log_columns.values())
    event = _role(log_sample, "event", taken)
    kind = log_kind or ("events" if event else "impressions")
    if kind == "events":
        if event is None:
            raise ContractError(f"{log} has no column that says view or click; it has {', '.join(log_sample.columns)}")
        log_columns["event"] = event
        log_columns |= _roles(log_sample, ("request_id", "event_id"), taken | {event})
    else:
        clicked = _role(log_sample, "clicked", taken)
        if clicked is None:
            raise ContractError(f"{log} has no column of 0 and 1 that looks like a click; it has {_listed(log_sample)}")
        log_columns["clicked"] = clicked
        log_columns |= _roles(log_sample, ("sequence",), taken | {clicked})
    values[kind] = _table(log_sample, folder)
    _append_options(guesses, kind, log_sample)
    values[kind]["columns"] = _described(log_sample, kind, log_columns, guesses, values["items"]["columns"])
    if users is not None:
        values["users"] = _users(read_sample(users), log_sample, log_columns["user_id"], folder, values, guesses)
    if kind == "events":
        named = [name for table in values.values() if isinstance(table, dict) for name in table.get("columns", ())]
        values[kind] |= _event_names(log_sample.columns[log_columns["event"]], named, guesses)
    values["policies"] = _policies(item_sample, item_columns, share, guesses)
    Schema.from_yaml(to_yaml(values, guesses))  # what was guessed keeps the rules
    return values, guesses


def _users(
    users: Sample, log: Sample, log_user: str, folder: Path, values: dict[str, Any], guesses: list[Guess]
) -> dict[str, Any]:
    """The table of users: the column whose values the log names, and features."""
    seen = log.distinct(log_user)
    ids = {name: found for name in users.columns if (found := _ids(users, name)) is not None}
    shares = {name: _overlap(seen, found) for name, found in ids.items()}

    def score(name: str) -> float:
        is_unique = len(ids[name]) > 0.9 * len(users.columns[name])
        same_name = _plain_name(name) == _plain_name(log_user)
        return shares[name] + _fit(name, "user_id") + same_name + 0.5 * is_unique

    best = max(ids, key=score, default=None)
    # Samples of two large tables need not meet: a name that says so is enough.
    if best is None or (shares[best] < 0.01 and _fit(best, "user_id") < 0.5):
        raise ContractError(
            f"no column of {users.path} holds ids of {log_user} in {log.path}: are they the users of this log? "
            f"Columns: {_listed(users)}"
        )
    table = _table(users, folder)
    _append_options(guesses, "users", users)
    taken = {name for other in values.values() if isinstance(other, dict) for name in other.get("columns", ())}
    table["columns"] = _described(users, "users", {"user_id": best}, guesses, taken)
    _append_reason(guesses, "users.user_id", f"{shares[best]:.0%} of the log's {log_user} are among the first rows")
    return table


def _no_role(log: Sample, role: str, table: str) -> ContractError:
    """Says which column has the name of a role and other values, or that none has."""
    near = max(log.columns, key=lambda name: _fit(name, role))
    if role == "timestamp" and _fit(near, role) > 0:
        return ContractError(
            f"{log.path}: column {near} is a time by its name, but its form is not known "
            f"({_example(log.columns[near])}). Write shop.yaml by hand, with {table}.columns.timestamp: "
            f'{{column: {near}, time: FORMAT}}, a format of strptime, e.g. "%m/%d/%Y %I:%M:%S %p"'
        )
    return ContractError(
        f"{log.path} has no column that looks like {role}; it has {_listed(log)}. Has it a header? Else write "
        f"shop.yaml by hand: {table}.columns.{role}"
    )


def to_yaml(values: dict[str, Any], guesses: Iterable[Guess]) -> str:
    """The text of `shop.yaml`, with the examples as comments."""
    lines = ["# Written by `mim init`; change what was guessed wrong, then `mim check`.", ""]
    examples = {guess.key: guess.why for guess in guesses}
    for section, content in values.items():
        if not isinstance(content, dict):
            lines += [f"{section}: {_inline(content)}", ""]
            continue
        lines.append(f"{section}:")
        for key, value in content.items():
            if key == "columns":
                lines.append("  columns:")
                for name, one in value.items():
                    note = examples.get(f"{section}.{name}", "")
                    lines.append(f"    {_inline(name)}: {_inline(one)}" + (f"  # {_one_line(note)}" if note else ""))
            else:
                lines.append(f"  {key}: {_inline(value)}")
        lines.append("")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
        .removesuffix("\n...\n")
        .strip()
    )


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:70]


def _table(sample: Sample, folder: Path) -> dict[str, Any]:
    path = sample.path.resolve()
    inside = path.is_relative_to(folder.resolve())
    name = str(path.relative_to(folder.resolve())) if inside else str(path)
    suffix = next(one for one in SUFFIXES if sample.file.name.endswith(one))
    return {"files": f"{name}/**{suffix}" if path.is_dir() else name, **sample.options}


def _matching_ids(items: Sample, log: Sample) -> tuple[str, str]:
    """The columns of the two tables that name items.

    Their values meet, many items occur in the log, and their names fit the role, or are the same.  Small integers meet
    by chance, so that values alone do not decide.
    """
    best: tuple[float, str, str] | None = None
    ids_of_items = {name: _ids(items, name) for name in items.columns}
    ids_of_log = {name: _ids(log, name) for name in log.columns}
    for name, distinct in ids_of_items.items():
        if distinct is None or len(distinct) < 0.3 * len(items.columns[name]):
            continue
        for other, seen in ids_of_log.items():
            if seen is None or not (share := _overlap(seen, distinct)):
                continue
            coverage = _overlap(distinct, seen)
            fit = (
                0.3 * _fit(name, "item_id")
                + 0.4 * _fit(other, "item_id")
                + 0.4 * (_plain_name(name) == _plain_name(other))
            )
            wrong = max(0.0, _fit(other, "user_id") - _fit(other, "item_id"))
            score = share + 0.5 * coverage + fit - wrong
            if best is None or score > best[0]:
                best = (score, name, other)
    if best is None or _overlap(ids_of_log[best[2]], ids_of_items[best[1]]) < 0.01:
        raise ContractError(
            f"no column of {log.path} holds ids of {items.path}: is it the log of this catalogue? Leading zeros, or "
            f"digits that a spreadsheet rounded, keep ids apart too. Columns: {_listed(items)}; and {_listed(log)}"
        )
    return best[1], best[2]


def _listed(sample: Sample) -> str:
    """The columns with a value each."""
    return ", ".join(f"{name} ({_example(values)})" for name, values in list(sample.columns.items())[:20])


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _ids(sample: Sample, name: str) -> pa.Array | None:
    kind = sample.columns[name].type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        return None
    return sample.distinct(name)


def _overlap(values: pa.Array, among: pa.Array) -> float:
    if not len(values):
        return 0.0
    return float(pc.mean(pc.is_in(values, value_set=among).cast(pa.float64())).as_py())


def _fit(name: str, role: str) -> float:
    """How well a column's name fits a role, 0 to 1."""
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()).strip("_")
    parts = set(plain.split("_"))
    name = name.lower()
    for index, word in enumerate(WORDS[role]):
        weight = 1 - index / (2 * len(WORDS[role]))
        if plain == word:
            return weight
        if word in parts or (set(word.split("_")) <= parts):
            return 0.9 * weight
        if (len(word) > 3 and word in plain) or (not word.isascii() and word in name):
            return 0.6 * weight
    return 0.0


def _roles(sample: Sample, roles: tuple[str, ...], taken: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for role in roles:
        name = _role(sample, role, taken | set(found.values()))
        if name is not None:
            found["image" if role == "image_path" and _is_image(sample.columns[name]) else role] = name
    return found


def _role(sample: Sample, role: str, taken: set[str]) -> str | None:
    """The column that fits a role best by its name, among those whose values are compatible with the role."""
    fits = {name: _fit(name, role) for name in sample.columns if name not in taken}
    values = {name: sample.columns[name] for name in fits}
    scores = {name: fit for name, fit in fits.items() if _possible(role, values[name], fit)}
    if role == "text" and scores:  # the longest words
        scores = {name: fit + min(_mean_length(values[name]), 400) / 400 for name, fit in scores.items()}
    scores = {name: score * (1 - values[name].null_count / max(len(values[name]), 1)) for name, score in scores.items()}
    if not any(scores.values()) and role in BY_VALUES:
        scores = {name: 1.0 for name, own in values.items() if BY_VALUES[role](own)}
        return next(iter(scores)) if len(scores) == 1 else None
    best = max(scores, key=lambda name: scores[name], default=None)
    return best if best is not None and scores[best] > 0 else None


def _lower_names(values: pa.Array) -> list[str]:
    return [str(name).lower() for name in pc.unique(_texts(values).drop_null()).to_pylist()]


def _says_events(values: pa.Array) -> bool:
    """Whether a column of any name holds views, and events that follow them."""
    if pa.types.is_nested(values.type):
        return False
    names = _lower_names(values)
    kinds = [any(word in name for name in names for word in words) for words in (VIEWS, (*CLICKS, *OTHERS))]
    return 2 <= len(names) <= 50 and all(kinds)


def _says_times(values: pa.Array) -> bool:
    """Whether a column of any name, but not of numbers, holds times."""
    kind = values.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_temporal(kind)) or (is_text and _is_number(values)):
        return False
    return _time_form(values) is not None


def _says_images(values: pa.Array) -> bool:
    return not pa.types.is_nested(values.type) and _possible("image_path", values, 0.0)


# Roles that values show where no name does.
BY_VALUES = {"event": _says_events, "timestamp": _says_times, "image_path": _says_images}


def _possible(role: str, values: pa.Array, fit: float) -> bool:
    kind = values.type
    if role == "image_path":
        urls = _share(pc.match_substring(_texts(values), "://")) > 0.5
        return _is_image(values) or (not urls and _share(pc.match_substring_regex(_texts(values), IMAGE_NAME)) > 0.5)
    if role in ("timestamp", "created_at"):
        return fit > 0 and _time_form(values) is not None
    if role == "category":
        return fit > 0 and (pa.types.is_list(kind) or not pa.types.is_nested(kind))
    if pa.types.is_nested(kind):
        return False
    if role == "clicked":
        parsed = parse_integers(values)
        there = parsed.values[~parsed.missing]
        return bool(fit and len(there) and not parsed.bad.any() and set(np.unique(there)) <= {0, 1})
    if role == "event":
        names = _lower_names(values)
        known = [any(word in name for word in (*VIEWS, *CLICKS, *OTHERS)) for name in names]
        return 0 < len(names) <= 50 and any(known)
    if role == "event_id":
        return fit > 0 and len(pc.unique(values)) > 0.9 * len(values)
    if role == "sequence":
        return fit > 0 and not parse_integers(values).bad.any()
    if role in ("title", "text"):
        return fit > 0 and (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and not _is_number(values)
    return fit > 0


def _is_image(values: pa.Array) -> bool:
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        return False
    first = next((value for value in values.to_pylist() if value), b"")
    return first.startswith(MAGIC) or first[4:12] in (b"ftypavif", b"ftypheic")


def _texts(values: pa.Array) -> pa.Array:
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        return pa.nulls(len(values), pa.string())
    return parse_text(values).values


def _share(found: pa.Array) -> float:
    """Of the values that are there."""
    mean = pc.mean(found.cast(pa.float64())).as_py()
    return float(mean or 0.0)


def _mean_length(values: pa.Array) -> float:
    return float(pc.mean(pc.utf8_length(_texts(values))).as_py() or 0.0)


def _is_number(values: pa.Array) -> bool:
    return any(_readable(parse_numbers(values, sign)) > 0.95 for sign in (".", ","))


def _readable(parsed: Parsed) -> float:
    """Share of the values that are there and can be read."""
    there = ~parsed.missing
    return float(1 - parsed.bad[there].mean()) if there.any() else 0.0


def _time_form(values: pa.Array) -> str | None:
    """How the times of a column are written; None where they are none.

    Where day and month may be swapped, the form in which the times lie closer together.
    """
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        return None
    head = values.slice(0, 2_000)
    found: dict[str, tuple[float, float]] = {}  # share that can be read, span
    for form in ("auto", *SLASHED, *WRITTEN):
        if form != "auto" and not pa.types.is_string(values.type):
            break
        parsed = parse_times(head, form)
        inside = (parsed.values >= EARLIEST * MICROS) & (parsed.values < LATEST * MICROS)
        readable = ~parsed.missing & ~parsed.bad & inside
        share = float(readable.sum()) / max(1, int((~parsed.missing).sum()))
        if share > 0.99 and form == "auto":
            return form
        if share > 0.9:
            found[form] = (round(share, 2), -float(np.ptp(parsed.values[readable])))
    return max(found, key=lambda form: found[form], default=None)


def _described(
    sample: Sample, table: str, columns: dict[str, str], guesses: list[Guess], taken: Collection[str] = ()
) -> dict[str, Any]:
    """The columns of a table in `shop.yaml`, the features after those of the contract; none has a name of `taken`."""
    found: dict[str, Any] = {}
    for name, source in columns.items():
        options = _options(name, table, sample.columns[source])
        found[name] = _plain(source, options)
        form = options.get("time", "")
        note = f"; read as {form}: are day and month so?" if form in SLASHED else f"; read as {form}" if form else ""
        guesses.append(Guess(f"{table}.{name}", source, _example(sample.columns[source]) + note))
    limit = min(1_000, max(20, len(next(iter(sample.columns.values()))) // 5))
    for source, values in sample.columns.items():
        if source in columns.values():
            continue
        feature = _feature(values, limit, table == "items")
        if table == "items" and _is_code(source, values):
            feature = {"type": "categorical"}
        why = "" if feature else "no feature: text, a list, one value, or as many values as rows"
        if table == "impressions" and "clicked" in columns and _is_further_label(source, values):
            name = _label_name(source, {*found, *taken})
            found[name] = _plain(source, {"type": "label"})
            share = parse_integers(values).values.mean()
            guesses.append(Guess(f"{table}.{name}", f"{source}, label", f"1 in {share:.2%} of the rows; predicted too"))
            continue
        if table != "items" and feature and feature.get("type") in ("list", "date", "embedding"):
            feature, why = None, "a list or a date, which only items may have"
        if table == "items" and feature == {"type": "number"} and COUNTS.search(_snake(source)):
            why = "a count of what users did, of the whole log; the run counts them up to each impression"
        if table in ("impressions", "events") and feature is not None:
            why = _unusable(source, values, sample.columns[columns["clicked"]] if "clicked" in columns else None)
        if feature is None or why:
            guesses.append(Guess(f"{table}: not used", source, f"{_example(values)}; {why}"))
            continue
        name = source if safe_name(source) == source else safe_name(source)
        while name in found or name in RESERVED or name in LEARNED or name in taken:
            name += "_feature"
        if feature.get("type") == "number" and (sign := _decimal(values)) != ".":
            feature["decimal"] = sign
        found[name] = _plain(source, feature)
        guesses.append(Guess(f"{table}.{name}", f"{source}, {feature.get('type', 'categorical')}", _example(values)))
    return found


def _plain(source: str, options: dict[str, Any]) -> Any:
    return {"column": source, **options} if options else source


def _options(name: str, table: str, values: pa.Array) -> dict[str, Any]:
    kind = CONTRACT[table][name].kind
    if kind == "time":
        form = _time_form(values)
        return {"time": form} if form not in ("auto", None) else {}
    if kind in ("text", "list") and name in ("title", "text", "category"):
        options: dict[str, Any] = {}
        text = _texts(values)
        if _share(pc.match_substring_regex(text, r"</?[a-zA-Z][^>]*>|&[a-z]{2,6};")) > 0.02:
            options["html"] = True
        if name == "category" and not pa.types.is_list(values.type):
            seen = {one: _share(pc.match_substring(text, one)) for one in SEPARATORS}
            likely = next((one for one, share in seen.items() if share > 0.2), "|")
            if likely.strip() != "|":
                options["separator"] = likely.strip()
        return options
    return {}


def _feature(values: pa.Array, limit: int, may_be_list: bool) -> dict[str, Any] | None:
    """How a column that the contract does not name can be a feature; None where it cannot."""
    if pa.types.is_list(values.type) and pa.types.is_string(values.type.value_type):
        distinct = len(pc.unique(values.flatten().drop_null()))
        return {"type": "list"} if 2 <= distinct <= limit else None
    if dim := _embedding_dim(values):
        return {"type": "embedding", "dim": dim}
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return None
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return {"type": "date"}
    if pa.types.is_temporal(values.type) or _share(pc.match_substring_regex(_texts(values), r"^https?://")) > 0.5:
        return None
    distinct = len(pc.unique(values.drop_null()))
    if distinct < 2:
        return None
    if _is_number(values) and distinct > 12:
        return {"type": "number"} if not _looks_like_id(values, distinct) else None
    if may_be_list and (separator := _separator(values, distinct, limit)):
        return {"type": "list", "separator": separator}
    if distinct <= limit and _mean_length(values) <= 60:
        return {"type": "categorical"}
    return None


def _separator(values: pa.Array, distinct: int, limit: int) -> str:
    """What divides the values of a column of tags, which are far fewer than their combinations; empty for nothing."""
    texts = [one for one in _texts(values).drop_null().to_pylist() if len(one) <= 300]
    for sign in (",", ";", "|"):
        if texts and np.mean([sign in one for one in texts]) > 0.3:
            parts = {part.strip() for one in texts for part in one.split(sign)}
            if len(parts) <= min(limit, distinct / 2):
                return sign
    return ""


def _embedding_dim(values: pa.Array) -> int:
    """The length of a column's lists of fractions, where all are as long; else 0."""
    kind = values.type
    if not is_list(kind) or not pa.types.is_floating(kind.value_type):
        return 0
    lengths = {len(one) for one in values.to_pylist() if one}
    return lengths.pop() if len(lengths) == 1 else 0


def _label_name(source: str, taken: Collection[str]) -> str:
    """A name that a label may have, and nothing else has."""
    name = re.sub(r"^(has_)+", "", safe_name(source).lower())
    name = re.sub(r"(_\d+)+$", "", name) or "outcome"
    name = name if name[0].isalpha() else f"label_{name}"
    while name in RESERVED or name in taken:
        name += "_label"
    return name


def _is_further_label(name: str, values: pa.Array) -> bool:
    """Whether a 0/1 column says that an order, a cart or another outcome followed the impression."""
    whole = _integers(values)
    if whole is None or values.null_count or set(np.unique(whole).tolist()) != {0, 1}:
        return False  # with gaps it is a label that is not known of every row
    return any(word in name.lower() for word in (*OTHERS, *OUTCOMES)) or _fit(name, "clicked") > 0.5


def _unusable(name: str, values: pa.Array, clicked: pa.Array | None) -> str:
    """Why a column of the log is no context: it names the request, or is known only after the click; else empty."""
    if max(_fit(name, role) for role in ("request_id", "event_id", "user_id", "item_id")) > 0.5:
        return "an id, which is not known again at serving"
    if "token" in name.lower() and not _is_number(values):
        return "a token, which is not known again at serving"
    if max(_fit(name, role) for role in ("timestamp", "created_at")) > 0.5 and _time_form(values) is not None:
        return "a time"
    if _counts_up(values):
        return "it counts up with the rows, as the number of a request does"
    plain = name.lower()
    if any(word in plain for word in (*OTHERS, *OUTCOMES)):
        return "an outcome, which is not known when the item is shown"
    if clicked is None:
        return ""
    label = parse_integers(clicked).values
    if (value := always_clicked(_texts(values), label)) is not None:
        return f"all rows with {value!r} were clicked, so that it is known only after the click"
    if 0 < label.mean() < 1 and _separates(values, label) > LEAK:
        return "it tells the clicked rows nearly by itself, so that it is known only after the click"
    return ""


def _separates(values: pa.Array, label: np.ndarray) -> float:
    """How well a column alone tells clicked rows: the largest AUC of its numbers, of whether it is empty or 0, and of
    the click rates of its values in the other half of the rows."""
    parsed = max((parse_numbers(values, sign) for sign in (".", ",")), key=_readable)
    codes = pc.fill_null(_texts(values).dictionary_encode().indices, -1).to_numpy(zero_copy_only=False) + 1
    scores = [(codes == 0).astype(float)]
    if _readable(parsed) > 0.95:
        scores += [np.where(parsed.missing, -np.inf, parsed.values), (parsed.values == 0).astype(float)]
    half = np.arange(len(label)) % 2 == 0
    shown = np.bincount(codes[half], minlength=codes.max() + 1)
    clicks = np.bincount(codes[half], label[half], minlength=codes.max() + 1)
    found = [_auc(score, label) for score in scores]
    found.append(_auc(((clicks + label.mean()) / (shown + 1))[codes[~half]], label[~half]))
    return max(max(auc, 1 - auc) for auc in found)


def _auc(score: np.ndarray, label: np.ndarray) -> float:
    if not 0 < label.mean() < 1:
        return 0.5
    _, rank, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # ties share their mean rank
    positive = int(label.sum())
    total = middle[rank][label == 1].sum()
    return float((total - positive * (positive + 1) / 2) / (positive * (len(label) - positive)))


def _looks_like_id(values: pa.Array, distinct: int) -> bool:
    return pa.types.is_integer(values.type) and distinct > 0.95 * len(values)


def _integers(values: pa.Array) -> np.ndarray | None:
    """The values of a column of whole numbers, as numbers or as text, without gaps; else None."""
    if not (
        pa.types.is_integer(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        return None
    parsed = parse_integers(values)
    return None if _readable(parsed) < 1.0 else parsed.values


def _is_code(name: str, values: pa.Array) -> bool:
    """Whether whole numbers name things, of which several items are one: `product_code`, `brand_id`."""
    if CODE.search(_snake(name)) is None or _integers(values) is None:
        return False
    return 2 <= len(pc.unique(values.drop_null())) <= 0.9 * len(values)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _counts_up(values: pa.Array) -> bool:
    """Whether whole numbers grow with the rows, in many steps."""
    numbers = _integers(values)
    if numbers is None or len(numbers) < 100:
        return False
    return bool(np.all(np.diff(numbers) >= 0)) and len(np.unique(numbers)) > len(numbers) / 50


def _decimal(values: pa.Array) -> str:
    """The decimal sign of numbers in text.  A sign that three digits always follow divides thousands."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return "."
    text = _texts(values)
    for sign, other in ((".", ","), (",", ".")):
        has = pc.fill_null(pc.match_substring(text, sign), False)
        if not _share(has) or _share(pc.match_substring(text, other)):
            continue
        groups = pc.match_substring_regex(text.filter(has), rf"^\D*\d{{1,3}}([{sign}]\d{{3}})+\D*$")
        if _share(groups) == 1.0 and len(groups) >= 3:
            return other
    return max((".", ","), key=lambda sign: (_decimals_fit(values, sign), _readable(parse_numbers(values, sign))))


def _decimals_fit(values: pa.Array, sign: str) -> float:
    return _share(pc.match_substring_regex(_texts(values), rf"\d[{sign}]\d{{1,2}}(\D|$)"))


def _example(values: pa.Array) -> str:
    for row in range(min(len(values), 1_000)):
        try:
            value = values[row].as_py()
        except (ValueError, OverflowError):  # a moment that Python has no date for
            value = str(values[row])
        if value not in (None, "", []):
            return f"e.g. <{len(value):,} bytes>" if isinstance(value, bytes) else f"e.g. {_one_line(str(value))}"
    return "empty"


def _append_options(guesses: list[Guess], table: str, sample: Sample) -> None:
    """Delimiter and encoding, the latter with a text that shows whether it is right."""
    for key, value in sample.options.items():
        why = ""
        if key == "encoding":
            texts = (one for values in sample.columns.values() for one in values.slice(0, 500).to_pylist())
            why = f"e.g. {next((_one_line(one) for one in texts if one and not one.isascii()), '')}; is it spelled so?"
        guesses.append(Guess(f"{table}.{key}", repr(value), why))


def _append_reason(guesses: list[Guess], key: str, more: str) -> None:
    for index, guess in enumerate(guesses):
        if guess.key == key:
            guesses[index] = Guess(key, guess.value, f"{guess.why}; {more}")


def _image_root(items: Sample, column: str | None, folder: Path, images: Path | None, guesses: list[Guess]) -> str:
    """The folder that `image_path` is relative to, relative to `folder`; empty for `folder` itself."""
    if column is None:
        return ""
    paths = [path for path in _texts(items.columns[column]).drop_null().to_pylist()[:200] if "://" not in path]
    candidates = [folder, items.path.parent, *([images, *images.resolve().parents[:3]] if images else [])]
    for path in paths[:5]:  # wherever a file of this name lies
        inside = itertools.islice(folder.rglob(Path(path).name), 10)
        depth = len(Path(path).parts)
        candidates += [found.parents[depth - 1] for found in inside if len(found.parents) >= depth]
    found = {one: sum((one / path).is_file() for path in paths) for one in dict.fromkeys(candidates)}
    best = max(found, key=lambda one: found[one])
    guesses.append(Guess("images", str(best), f"{found[best]} of the first {len(paths)} pictures lie there"))
    if not found[best] or best.resolve() == folder.resolve():
        return ""
    where = best.resolve()
    return str(where.relative_to(folder.resolve())) if where.is_relative_to(folder.resolve()) else str(where)


def _event_names(values: pa.Array, taken: Collection[str], guesses: list[Guess]) -> dict[str, Any]:
    """`view` and `labels` of a log of events; no label has a name of `taken`."""
    names = [str(name) for name in pc.unique(_texts(values).drop_null()).to_pylist()]
    seen = [name for name in names if any(word in name.lower() for word in VIEWS)]
    views = _impressions(seen)
    others = [name for name in names if name not in seen]
    clicks = [name for name in others if any(word in name.lower() for word in CLICKS)]
    if not clicks:  # e.g. views and orders
        clicks = [name for name in others if any(word in name.lower() for word in OTHERS)]
    if not views or not clicks:
        raise ContractError(
            f"the log needs events that are views and events that follow them; it has {', '.join(names)}. Say which in "
            "shop.yaml: events.view and events.labels"
        )
    guesses.append(Guess("events.view", ", ".join(views), "each is an impression"))
    if pages := [name for name in seen if name not in views]:
        guesses.append(Guess("events: not used", ", ".join(pages), "the page that opens; no impression among others"))
    labels: dict[str, Any] = {"clicked": clicks}
    further = [name for name in others if name not in clicks]
    left = [name for name in further if not any(word in name.lower() for word in OTHERS)]
    guesses.append(Guess("events.labels.clicked", ", ".join(clicks), "at most 1800 s after a view"))
    for name in (name for name in further if name not in left):
        label = _label_name(name, {*labels, *taken})
        labels[label] = {"events": [name], "window_seconds": LATER}
        guesses.append(Guess(f"events.labels.{label}", name, "at most a day after a view; predicted too"))
    if left:
        guesses.append(Guess("events: not used", ", ".join(left), "neither views nor known labels"))
    return {"view": views, "labels": labels, "window_seconds": 1800}


def _impressions(seen: list[str]) -> list[str]:
    """Of events that are views, those of items among others; the page that follows a click is no impression."""
    of_lists = [name for name in seen if LISTS.search(name.lower())]
    of_items = [name for name in seen if not any(word in name.lower() for word in PAGES)]
    return of_lists or of_items or seen


def _policies(items: Sample, columns: dict[str, str], share: float, guesses: list[Guess]) -> dict[str, Any]:
    policies = {"unknown_items": "drop", "repeated_ids": "latest"}
    guesses.append(
        Guess("policies.unknown_items", "drop", f"{1 - share:.1%} of the log's items are not in the catalogue")
    )
    ids = parse_ids(items.columns[columns["item_id"]]).values
    repeated = len(ids.drop_null()) - len(pc.unique(ids.drop_null()))
    if repeated and "title" in columns:
        # Variants that repeat the id of their product have no title of their own.
        empty = _texts(items.columns[columns["title"]]).is_null().to_numpy(zero_copy_only=False)
        counts = {row["values"]: row["counts"] for row in pc.value_counts(ids).to_pylist()}
        again = np.array([counts.get(one, 0) > 1 for one in ids.to_pylist()])
        if empty[again].mean() > 0.3:
            policies["repeated_ids"] = "first"
    guesses.append(Guess("policies.repeated_ids", policies["repeated_ids"], f"{repeated} rows repeat an id"))
    return policies
