"""Locations on the command line: local paths, and addresses of object stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from upath import UPath

_EXTRAS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3"}


class Location(click.ParamType):
    """A folder on a local disk or on an object store, such as `gs://bucket/runs`.

    Args:
        exists: Whether the folder must be there.
    """

    name = "location"

    def __init__(self, exists: bool = False) -> None:
        self._exists = exists

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UPath:
        """The location as a path."""
        if not isinstance(value, str):
            return value
        from serving.storage import SCHEMES, as_path, is_local, kind  # late: it takes a third of a second

        try:
            path = as_path(value)
            if not is_local(path) and path.protocol not in SCHEMES:
                raise ValueError(f"{path.protocol}:// is not one of {', '.join(SCHEMES)}")
            there = kind(path) == "directory" if self._exists else True
        except ImportError:
            scheme = value.split("://")[0]
            extra = _EXTRAS.get(scheme)
            how = f"pip install 'mim-tensorflow[{extra}]'" if extra else f"install fsspec's package for {scheme}://"
            self.fail(f"{value}: {scheme}:// needs a package that is not installed: {how}", param, ctx)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)
        except Exception as error:  # of any client of a store
            self.fail(f"{value} cannot be reached: {error}", param, ctx)
        if not there:
            what = "is a file, not a folder" if is_local(path) and path.exists() else "does not exist"
            self.fail(f"{value} {what}", param, ctx)
        return path
