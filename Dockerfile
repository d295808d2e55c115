# The image of the pipeline's steps on a cluster, and the way to run on hosts that lack what the wheels need.
# Debian 13 brings glibc 2.41, so no private C runtime is added.
FROM python:3.11-slim-trixie
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mim
COPY . .
RUN make setup && rm -rf ~/.cache
ENV PATH=/opt/mim/.venv/bin:$PATH
ENTRYPOINT ["python", "-m", "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"]
