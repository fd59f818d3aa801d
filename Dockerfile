# mmdpo in a container, with the locked versions.
#
#   docker build --tag mmdpo .
#   docker run --rm --user "$(id -u)" --volume "$PWD:/work" --volume mmdpo:/cache mmdpo quickstart
#
# For NVIDIA GPUs, whose driver and container toolkit the host has:
#
#   docker build --tag mmdpo:cuda --build-arg TORCH_INDEX= --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#   docker run --rm --gpus all --ipc host --user "$(id -u)" --volume "$PWD:/work" --volume mmdpo:/cache mmdpo:cuda \
#       train --config vlm-mdpo-lora …
#
# Any image with apt and Python 3.11 to 3.13 can be the base; one that ends in -devel lets DeepSpeed compile its kernels.
ARG BASE=debian:trixie-slim

# hadolint ignore=DL3006
FROM ${BASE} AS python
# Versions of Debian's and Ubuntu's packages are those of the base.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/mmdpo/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/mmdpo

FROM python AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir --constraint requirements/locked.txt --upgrade pip \
    && pip install --no-cache-dir --constraint requirements/locked.txt --group build \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python
# Where PyTorch is built without CUDA; empty for PyPI's build, which brings CUDA's libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of mmdpo, such as eval,qlora,app.
ARG EXTRAS=eval,diagnose,openai
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    --mount=type=bind,source=requirements/locked.txt,target=/locked.txt \
    pip install --no-cache-dir --constraint /locked.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        "$(echo /wheel/*.whl)[${EXTRAS}]"
# What is fetched stays in a volume, which any user may write: with --user, files in /work belong to who runs it.
ENV HOME=/cache HF_HOME=/cache/huggingface USER=mmdpo
RUN useradd --uid 10001 --home-dir /cache mmdpo && mkdir -p /cache /work && chmod 1777 /cache /work
USER 10001
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["mmdpo"]
CMD ["--help"]
