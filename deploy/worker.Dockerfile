# One inference worker: one model version on one device. Build from the repository's root:
# docker build -f deploy/worker.Dockerfile -t hueshift-worker .
# It holds the worker's own libraries (deploy/worker.in) and nothing of the control plane.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY deploy/worker.lock deploy/
RUN python -m venv /opt/worker \
    && /opt/worker/bin/pip install --no-deps --require-hashes -r deploy/worker.lock \
    && /opt/worker/bin/python -m pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
RUN groupadd --system --gid 10001 worker \
    && useradd --system --uid 10001 --gid worker --no-create-home --shell /usr/sbin/nologin worker
COPY --from=build /opt/worker /opt/worker
COPY inference_worker /opt/worker/app/inference_worker
# What `GET /models` says of the code: --build-arg COMMIT=$(git rev-parse HEAD)
ARG COMMIT=""
ENV PATH=/opt/worker/bin:$PATH PYTHONPATH=/opt/worker/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HUESHIFT_COMMIT=$COMMIT WORKER_PORT=8083
USER 10001:10001
EXPOSE 8083
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['WORKER_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "inference_worker"]
CMD ["serve", "--model", "v1", "--host", "0.0.0.0", "--port", "8083"]
