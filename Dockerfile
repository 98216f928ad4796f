# An image that serves bundles; it needs nothing else. Two targets:
#
#   docker build --target cpu -t ray-pipeline:cpu .
#   docker run --rm -p 8000:8000 --shm-size 1g -v "$PWD/storage/income/bundles/ab12…:/bundle:ro" \
#       ray-pipeline:cpu
#
# docs/packaging.md says more.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS installed
WORKDIR /source
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
COPY constraints.txt docker/serving.txt ./
RUN pip install --constraint constraints.txt --requirement serving.txt
COPY pyproject.toml README.md LICENSE ./
COPY ray_pipeline ray_pipeline
# Training's libraries are left out: an endpoint imports none of them.
RUN pip install --no-deps .

FROM installed AS installed-cpu
RUN pip install --constraint constraints.txt onnxruntime

FROM installed AS installed-gpu
# In onnxruntime's place, whose folder it shares; with the CUDA, cuDNN and TensorRT it is built for.
RUN pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1" "tensorrt-cu13==10.16.1.11"

FROM python:${PYTHON}-slim-bookworm AS base
ARG UID=10001
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid ${UID} --create-home served
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_PIPELINE_HOME=/home/served/.ray_pipeline
USER ${UID}
WORKDIR /home/served
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["tini", "--", "ray-pipeline", "serve", "--set", "host=0.0.0.0"]
CMD ["/bundle"]

FROM base AS cpu
COPY --from=installed-cpu /opt/venv /opt/venv

FROM base AS gpu
COPY --from=installed-gpu /opt/venv /opt/venv
ARG SITE=/opt/venv/lib/python3.11/site-packages
ENV LD_LIBRARY_PATH=${SITE}/nvidia/cu13/lib:${SITE}/nvidia/cudnn/lib:${SITE}/tensorrt_libs
CMD ["--set", "gpus=1", "/bundle"]
