# Two images. The inspection server, on the CPU:
#     docker build --target serve --tag vqc-serve .
# The search and the promotion, on an NVIDIA GPU (also of use without one):
#     docker build --target search --tag vqc-search .
# compose.yaml runs them, with a read-only root, and says what was tested.
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* \
    && useradd --uid 10001 --create-home vqc \
    && install --directory --owner vqc --group vqc \
        /vqc /vqc/mlflow /vqc/results /vqc/results/promoted /vqc/results/serving
ENV PATH=/opt/vqc/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /vqc

FROM python AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
ENV PATH=/opt/uv/bin:$PATH \
    UV_PROJECT_ENVIRONMENT=/opt/vqc UV_PYTHON=/usr/bin/python3 UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
    UV_CACHE_DIR=/var/cache/uv
WORKDIR /source
COPY pyproject.toml ./

# Resolved together with all else that the project needs, so the server runs with the versions that it is tested with.
FROM build AS build-serve
RUN --mount=type=cache,target=/var/cache/uv uv sync --only-group serve \
    && find /opt/vqc -type d -name tests -prune -exec rm -r {} +
COPY . .
RUN --mount=type=cache,target=/var/cache/uv uv pip install --python /opt/vqc --no-deps .

# PyPI's torch for Linux brings CUDA with it; the driver comes from the host.
FROM build AS build-search
RUN --mount=type=cache,target=/var/cache/uv uv sync --no-dev --no-install-project
COPY . .
RUN --mount=type=cache,target=/var/cache/uv uv pip install --python /opt/vqc --no-deps .

FROM python AS search
COPY --from=build-search /opt/vqc /opt/vqc
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
ENTRYPOINT ["vqc-search"]

FROM python AS serve
COPY --from=build-serve /opt/vqc /opt/vqc
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health/ready'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["vqc", "serve"]
CMD ["--host", "0.0.0.0"]
