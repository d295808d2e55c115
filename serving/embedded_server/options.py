"""How an embedded server is set up: tensorflow_model_server's flags, under their own names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNSUPPORTED = {
    "num_tflite_interpreters_per_pool": "each pool has one interpreter here; use --num_tflite_pools",
    "platform_config_file": "only the tensorflow platform is served here",
    "use_alts_credentials": "ALTS needs Google's network; use --ssl_config_file",
    "thread_pool_factory_config_file": "sessions have their own thread pools here",
    "tensorflow_session_config_file": "use --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism",
    "per_process_gpu_memory_fraction": "this server runs on CPUs",
    "mixed_precision": "models run as they were exported",
    "xla_cpu_compilation_enabled": "models run as they were exported",
    "xla_gpu_compilation_enabled": "this server runs on CPUs",
    "enable_signature_method_name_check": "signatures are checked by their inputs and outputs",
}
# Flags of tensorflow_model_server that are taken, so that its command lines work, and change nothing here.
IGNORED = {
    "flush_filesystem_caches": "the operating system keeps its caches",
    "num_unload_threads": "a version is unloaded by a thread of its own",
    "remove_unused_fields_from_bundle_metagraph": "the whole graph is kept",
    "skip_initialize_tpu": "this server runs on CPUs",
}


def _flag(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class ServerOptions:
    """Flags of tensorflow_model_server, with its defaults unless the flag's help says otherwise.

    Raises:
        ValueError: flags that contradict each other.
    """

    models: Path | None = _flag(
        None, "Folder of model folders, each served under its name (TF Serving has no such flag)."
    )
    model_config_file: Path | None = _flag(None, "ModelServerConfig in text form: models, version policies, labels.")
    model_base_path: str = _flag("", "One model's folder of versions.")
    model_name: str = _flag("default", "Its name.")
    host: str = _flag("127.0.0.1", "Address to listen on (TF Serving: every one).")
    port: int = _flag(8500, "gRPC; 0 for any free port (TF Serving: none).")
    grpc_socket_path: str = _flag("", "A Unix socket to listen on as well.")
    rest_api_port: int | None = _flag(None, "REST and metrics; 0 for any free port (TF Serving: none). Off by default.")
    rest_api_num_threads: int = _flag(4, "Threads of the REST API (TF Serving: 4 for each CPU).")
    rest_api_timeout_in_ms: int = _flag(30_000, "Of a REST call; 0 for no limit.")
    rest_api_max_body_bytes: int = _flag(16 << 20, "Largest REST body, also when decompressed (TF Serving: no limit).")
    grpc_max_message_bytes: int = _flag(
        64 << 20, "Largest gRPC request, also when decompressed (TF Serving: no limit)."
    )
    admin_token_file: Path | None = _flag(None, "A token; HandleReloadConfigRequest needs it as `Bearer` then.")
    models_root: Path | None = _flag(None, "Models that a configuration names must lie below this folder.")
    admin_port: int | None = _flag(
        None, "Another port, which alone answers reloads and profiles then; 0 for any free one (TF Serving: none)."
    )
    request_log_root: Path | None = _flag(None, "The files of a model's logging_config must lie below this folder.")
    request_log_file_bytes: int = _flag(64 << 20, "A file of a request log is ended at this size, or after an hour.")
    request_log_files: int = _flag(16, "Ended files kept of a request log; the oldest beyond are removed.")
    rest_api_enable_cors_support: bool = _flag(False, "CORS headers in REST answers.")
    model_config_file_poll_wait_seconds: float = _flag(0.0, "Between looks at the config file; 0 reads it once.")
    file_system_poll_wait_seconds: float = _flag(1.0, "Between looks at the version folders; 0 looks once.")
    max_num_load_retries: int = _flag(5, "Tries to load a version after the first that failed.")
    load_retry_interval_micros: int = _flag(60_000_000, "Between such tries.")
    num_load_threads: int = _flag(0, "Versions loaded at a time; 0 and 1: one, beside the calls.")
    enable_batching: bool = _flag(False, "Run requests of several clients as one batch.")
    batching_parameters_file: Path | None = _flag(None, "BatchingParameters in text form.")
    enable_per_model_batching_parameters: bool = _flag(False, "Read each model's own batching_params.pbtxt instead.")
    allow_version_labels_for_unavailable_models: bool = _flag(False, "New labels may name versions not loaded yet.")
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests before serving.")
    num_request_iterations_for_warmup: int = _flag(1, "How often each is replayed.")
    enforce_session_run_timeout: bool = _flag(True, "A call's deadline bounds the run of the model.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Answer numbers as raw bytes, however few.")
    saved_model_tags: str = _flag("serve", "Tags of the graph to load, comma-separated.")
    prefer_tflite_model: bool = _flag(False, "Serve model.tflite of a version's folder, where it has one.")
    num_tflite_pools: int = _flag(0, "Calls of a TensorFlow Lite model that run at a time; 0: one for each CPU.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads of one operation; 0 as TensorFlow likes.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations run at a time; 0 as TensorFlow likes.")
    tensorflow_session_parallelism: int = _flag(0, "Both of these; 0 for each its own.")
    ssl_config_file: Path | None = _flag(None, "SSLConfig in text form: TLS; mTLS with client_verify.")
    monitoring_config_file: Path | None = _flag(None, "MonitoringConfig in text form: Prometheus on the REST port.")
    enable_profiler: bool = _flag(False, "TensorFlow's profiler service, on the gRPC port or on --admin_port.")
    profiler_root: Path | None = _flag(None, "Profiles that callers ask for must lie below this folder.")
    enable_grpc_healthcheck_service: bool = _flag(False, "The standard gRPC health service.")
    grpc_channel_arguments: str = _flag("", "key=value, comma-separated.")
    grpc_max_threads: int = _flag(
        4, "Concurrent inference calls, 64 where batching is on (TF Serving: 4 for each CPU)."
    )

    def __post_init__(self) -> None:
        named = [bool(self.models), bool(self.model_config_file), bool(self.model_base_path)]
        if sum(named) != 1:
            raise ValueError(
                "a server needs exactly one of --models, --model_config_file and --model_base_path; received "
                f"{sum(named)} of them"
            )
        if self.batching_parameters_file and not self.enable_batching:
            raise ValueError(
                "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
            )
        own = self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism
        if self.tensorflow_session_parallelism and own:
            raise ValueError(
                "--tensorflow_session_parallelism sets --tensorflow_intra_op_parallelism and "
                "--tensorflow_inter_op_parallelism, and is not given beside them; give one or the others"
            )
        for name in (
            "rest_api_max_body_bytes",
            "grpc_max_message_bytes",
            "request_log_file_bytes",
            "request_log_files",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; received {getattr(self, name)}")
        if self.admin_token_file is not None and not self.admin_token_file.is_file():
            raise ValueError(f"--admin_token_file must name a file; {self.admin_token_file} does not exist")
        if self.enable_profiler and self.models_root and not self.profiler_root:
            raise ValueError("--models_root confines what callers may name; with --enable_profiler set --profiler_root")
        if self.admin_port and self.admin_port in (self.port, self.rest_api_port):
            raise ValueError(f"--admin_port must be a port of its own; received {self.admin_port}, which is in use")
        if self.rest_api_port and self.rest_api_port == self.port:
            raise ValueError(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API."
            )
