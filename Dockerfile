# Fovea on an NVIDIA GPU. The tests check this file against the repository (tests/test_notebook_and_docker.py); they do
# not build it, because they have neither Docker nor a GPU.
#   docker build -t fovea-grounding .
#   docker run --gpus all -it -v $PWD/data:/fovea/data -v $PWD/runs:/fovea/runs fovea-grounding \
#       python train.py configs/recipes/refcoco.yaml model=qwen2_5_vl_3b --dry-run
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 python3.12-venv python3.12-dev git make ninja-build \
    && rm -rf /var/lib/apt/lists/*

# PyTorch first and by itself: it changes seldom, and DeepSpeed's build imports it
ENV VIRTUAL_ENV=/opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN python3.12 -m venv /opt/venv \
    && pip install --no-cache-dir "setuptools>=77" wheel "torch==2.14.1" "torchvision==0.29.1"

WORKDIR /fovea
COPY pyproject.toml README.md LICENSE train.py eval.py predict.py ./
COPY grounding grounding
COPY attention attention
COPY rewards rewards
COPY credit credit
COPY tools tools
COPY models models
COPY data_prep data_prep
COPY recipes recipes
COPY benchmarks benchmarks
COPY reports reports
COPY configs configs
COPY assets assets
RUN pip install --no-cache-dir --no-build-isolation -e ".[deepspeed,gpu,tensorboard]"

RUN useradd --create-home trainer && mkdir -p data runs && chown -R trainer data runs
USER trainer
CMD ["python", "train.py", "--help"]
