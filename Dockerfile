# The image: the program, exactly the dependencies of requirements.lock, and Python. Nothing is compiled here.
#
#   docker build -t sse-sidecar .
#   docker run --read-only -p 8080:8080 -v ./config.yaml:/etc/sidecar/config.yaml:ro sse-sidecar
#
# A tag moves; for a build that can be repeated, give the base by its digest:
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:… -t sse-sidecar .
# (`docker buildx imagetools inspect python:3.13-slim` prints it.)
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two environments, so that neither pip nor the build backend is in the image's own.
COPY requirements.build.lock requirements.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements.build.lock
RUN python -m venv --without-pip /opt/sidecar \
    && /opt/build/bin/pip --python /opt/sidecar/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar sidecar
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheel . \
    && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-deps --no-index /opt/wheel/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sidecar" \
      org.opencontainers.image.description="Turns RabbitMQ exchanges into Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/sidecar /opt/sidecar
# Nothing is ever written: pip has compiled the bytecode, and logs go to standard error.
ENV PATH=/opt/sidecar/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /etc/sidecar
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
# The process is the container's first and handles its signals itself; no shell and no init stands between.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["sidecar", "live"]
ENTRYPOINT ["sidecar"]
CMD ["run", "-c", "/etc/sidecar/config.yaml"]
