# The server on CPU devices, for trying things out and for tests without a GPU. From the repository's root:
#   docker build -f deploy/docker/server-cpu.Dockerfile -t remotegpu-server:cpu .
#   docker run -p 50051:50051 -v $PWD/models:/models:ro -v $PWD/secrets:/secrets:ro remotegpu-server:cpu
# Without certificate and identity, on a network that is trusted: add
#   -e REMOTEGPU_SERVER_INSECURE=1 -e REMOTEGPU_SERVER_TLS_CERT= -e REMOTEGPU_SERVER_TLS_KEY= \
#   -e REMOTEGPU_SERVER_IDENTITY=
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY server server
RUN python -m venv /opt/remotegpu && /opt/remotegpu/bin/pip install --no-cache-dir '.[cpu]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/remotegpu /opt/remotegpu
COPY deploy/docker/health.py /opt/remotegpu/health.py
ENV REMOTEGPU_SERVER_GPUS=cpu \
    REMOTEGPU_SERVER_MODELS=/models \
    REMOTEGPU_SERVER_LISTEN=0.0.0.0:50051 \
    REMOTEGPU_SERVER_TLS_CERT=/secrets/tls.crt \
    REMOTEGPU_SERVER_TLS_KEY=/secrets/tls.key \
    REMOTEGPU_SERVER_IDENTITY=/secrets/identity.toml \
    PATH=/opt/remotegpu/bin:$PATH
RUN useradd --uid 10001 --create-home remotegpu && mkdir /models
USER 10001
EXPOSE 50051
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python", "/opt/remotegpu/health.py"]
# As a list: signals reach the server itself, which drains on SIGTERM.
CMD ["remotegpu-server"]
