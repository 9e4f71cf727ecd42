# The server on NVIDIA GPUs. From the repository's root:
#   docker build -f deploy/docker/server-cuda.Dockerfile -t remotegpu-server:cuda .
#   docker run --gpus all -p 50051:50051 -v $PWD/models:/models:ro -v $PWD/secrets:/secrets:ro remotegpu-server:cuda
# The image brings no driver: that is the host's (NVIDIA Container Toolkit). CUDA's libraries come from pip, at the
# versions that CuPy and ONNX Runtime were built for, so an image with a CUDA of its own would only hold them twice.
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY server server
RUN python -m venv /opt/remotegpu && /opt/remotegpu/bin/pip install --no-cache-dir '.[cuda]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/remotegpu /opt/remotegpu
COPY deploy/docker/health.py /opt/remotegpu/health.py
# Which of the driver's parts the toolkit puts into the container: CUDA, and NVML with nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    REMOTEGPU_SERVER_GPUS=all \
    REMOTEGPU_SERVER_MODELS=/models \
    REMOTEGPU_SERVER_LISTEN=0.0.0.0:50051 \
    REMOTEGPU_SERVER_TLS_CERT=/secrets/tls.crt \
    REMOTEGPU_SERVER_TLS_KEY=/secrets/tls.key \
    REMOTEGPU_SERVER_IDENTITY=/secrets/identity.toml \
    PATH=/opt/remotegpu/bin:$PATH
# CuPy compiles kernels and keeps them in the user's home.
RUN useradd --uid 10001 --create-home remotegpu && mkdir /models
USER 10001
EXPOSE 50051
# The first start warms the devices up, for up to three minutes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 CMD ["python", "/opt/remotegpu/health.py"]
# As a list: signals reach the server itself, which drains on SIGTERM.
CMD ["remotegpu-server"]
