"""What a server reads in protobuf's text form: models, batching, monitoring, TLS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import messages
from serving.embedded_server.errors import invalid
from serving.releases import MODELS_CONFIG


def read_text_proto(path: Path, message: Any, name: str) -> Any:
    """Fills `message` from a file.

    Raises:
        ValueError: the file cannot be read or parsed.
    """
    try:
        return text_format.Parse(Path(path).read_text(), message)
    except OSError as error:
        raise ValueError(f"{path}; {error.strerror or error}: Can't open {name} file") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"Error parsing text-format tensorflow.serving.{name}: {path}: {error}") from error


def read_model_config(path: Path) -> Any:
    """The ModelServerConfig in a file.

    Raises:
        ValueError: the file cannot be read or parsed.
    """
    return read_text_proto(path, model_server_config_pb2.ModelServerConfig(), "ModelServerConfig")


def single_model(name: str, base_path: str) -> Any:
    """The ModelServerConfig of one model."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
    return config


def models_below(folder: Path) -> list[Any]:
    """ModelConfigs of the folders below `folder`, a model each.

    Versions that `models.config` there names are served, see `serving.releases`; of other models the newest.  Its
    `logging_config` holds as well.
    """
    names = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    file = folder / MODELS_CONFIG
    listed = read_model_config(file).model_config_list.config if file.is_file() else ()
    entries = {model.name: model for model in listed}
    found = []
    for name in names:
        model = single_model(name, str(folder / name)).model_config_list.config[0]
        if name in entries:
            model.model_version_policy.CopyFrom(entries[name].model_version_policy)
            if entries[name].HasField("logging_config"):
                model.logging_config.CopyFrom(entries[name].logging_config)
        found.append(model)
    return found


def validate(models: Sequence[Any], old: Sequence[Any], root: Path | None = None) -> None:
    """Refuses a list of ModelConfigs as TensorFlow Serving does.

    Args:
        models: What is asked for.
        old: What is served.
        root: Where their folders must lie; None for anywhere.

    Raises:
        ServingFault: INVALID_ARGUMENT.
    """
    names = set()
    for model in models:
        if model.name in names:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if not model.name.isprintable():
            raise invalid(f"a model's name has no control characters; received {model.name[:200]!r}")
    for model in models:
        if "://" in model.base_path or (
            root is not None and not Path(model.base_path).resolve().is_relative_to(root.resolve())
        ):
            where = f"below --models_root {root}" if root is not None else "on a local or mounted file system"
            raise invalid(f"model {model.name} must lie {where}; received base_path {model.base_path[:500]!r}")
        if not model.base_path.startswith("/"):
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    platforms = {model.name: _platform(model) for model in old}
    for model in models:
        asked = _platform(model)
        was = platforms.get(model.name, asked)
        if was != asked:
            raise invalid(
                f"Illegal to change a model's platform. For model {model.name} platform was {was} and new platform "
                f"requested is {asked}"
            )
    for model in models:
        if _platform(model) != "tensorflow":
            raise invalid(f"Model {model.name} requests unsupported platform {_platform(model)}")


def _platform(model: Any) -> str:
    if model.model_type == model_server_config_pb2.TENSORFLOW and not model.model_platform:
        return "tensorflow"
    if not model.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return str(model.model_platform)


def server_credentials(path: Path) -> grpc.ServerCredentials:
    """TLS from an SSLConfig file: key and certificate inline, as there.

    Raises:
        ValueError: the file cannot be read, or lacks its key or certificate.
    """
    config = read_text_proto(path, messages.SSLConfig(), "SSLConfig")
    if not (config.server_key and config.server_cert):
        raise ValueError(f"{path} must hold server_key and server_cert, each a PEM text; one of them is missing")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
