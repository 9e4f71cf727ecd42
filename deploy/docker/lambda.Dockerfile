# The example handler as a container image, for AWS Lambda, OSCAR and SCAR alike. From the repository's root:
#   docker build -f deploy/docker/lambda.Dockerfile -t remotegpu-detect .
# A zip with the layer starts sooner and can use SnapStart, which images cannot: this is for where images are asked for.
# Not AWS's base image: its entry point wants to be Lambda's, and OSCAR and SCAR bring their own.
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY server server
# [demo] is the runtime client, [aws] what a managed runtime would have.
RUN python -m venv /opt/remotegpu && /opt/remotegpu/bin/pip install --no-cache-dir '.[demo,aws]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/remotegpu /opt/remotegpu
# Where Lambda has a function's code.
WORKDIR /var/task
COPY examples/lambda_handler/handler.py deploy/sam/functions/detect.py ./
ENV PATH=/opt/remotegpu/bin:$PATH
# Lambda runs images as a user of its own; elsewhere it is this one, which can write to /tmp only.
USER 10001
# Only that the packages are there: health is the platform's business here, and Lambda does not read this line.
HEALTHCHECK --interval=60s --timeout=20s CMD ["python", "-c", "import remotegpu, awslambdaric"]
# In place of an entry point, so that OSCAR and SCAR can put theirs there. For the orchestrator as an image:
#   ["python", "-m", "awslambdaric", "remotegpu.orchestrator.sqs_handler.handler"]
CMD ["python", "-m", "awslambdaric", "handler.handler"]
