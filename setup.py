"""Packaging of MIM for TensorFlow.  `make lock` turns these ranges into requirements.lock."""

from setuptools import find_packages, setup

CORE = [
    # Models
    "tensorflow>=2.21,<2.22",
    "tensorflow-text>=2.21,<2.22",
    "keras>=3.15,<3.16",
    "keras-nlp>=0.32,<0.33",
    "keras-rs>=0.4,<0.5",
    "tensorboard>=2.20",
    "safetensors>=0.5",  # presets in Hugging Face's layout
    "tensorflow-recommenders>=0.7.7,<0.8",
    # Pipeline
    "tfx>=1.21,<1.22",
    "tensorflow-transform>=1.21,<1.22",
    "tensorflow-data-validation>=1.17",
    "tensorflow-metadata>=1.17",
    "tensorflow-model-analysis>=0.52,<0.53",
    "apache-beam>=2.77,<2.78",
    "google-crc32c>=1.6",
    "setuptools>=77,<81",  # tensorflow-hub, which TFX brings, still imports pkg_resources
    # Serving
    "tensorflow-serving-api>=2.19.1,<3",
    "grpcio>=1.71",
    "grpcio-health-checking>=1.71",
    "protobuf>=6.31",
    "waitress>=3.0",
    "flatbuffers>=24.3",
    "lmdb>=1.5",
    "prometheus-client>=0.21",
    # Tables, pictures, command line, report
    "numpy>=2.0,<3",
    "scipy>=1.13",
    "pyarrow>=18.1",
    "Pillow>=11",
    "click>=8.1",
    "rich>=13.9",
    "PyYAML>=6",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "charset-normalizer>=3.4",
    "scikit-learn>=1.5",
]

EXTRAS = {
    "dev": [
        "jax>=0.7",
        "pytest>=8",
        "pytest-xdist>=3.6",  # the suite on two cores
        "hypothesis>=6.100",
        "ruff>=0.9",
        "mypy>=1.15",
        "types-PyYAML>=6",
        "kubernetes-validate>=1.30",
        "check-jsonschema>=0.33",
    ],
    "kubeflow": ["kfp>=2.16,<2.17"],
    "redis": ["redis[hiredis]>=5.2"],
    "bench": ["psutil>=6", "hdrhistogram>=0.10", "cryptography>=43"],
}

setup(
    name="mim-tensorflow",
    version="0.1.0",
    description="Multi-modal content interest modelling for click-through rates, on TensorFlow, Keras 3 and TFX",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["mim_keras*", "components*", "tfx_pipeline*", "serving*"]),
    package_data={"tfx_pipeline": ["configs/*.yaml", "schemas/*/*.pbtxt"], "components": ["report_gen/*.html"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mim = tfx_pipeline.cli:main"]},
)
