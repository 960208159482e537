# syntax=docker/dockerfile:1
# docker build -t aioingress .
# docker run --rm -p 8080:8080 -p 10254:10254 -v "$PWD/manifests:/manifests:ro" aioingress serve --manifests /manifests

ARG PYTHON_VERSION=3.13

# Builds the virtual environment. Every pin ships as a wheel, so that not even this stage has a compiler.
FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/ingress
# Dependencies before sources: a change of the code alone reuses this layer.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m pip install --only-binary=:all: -r requirements/build.txt \
 && python -m pip --python /opt/ingress/bin/python install --only-binary=:all: -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY ingress/ ingress/
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/ingress/bin/python install --no-deps /wheels/*.whl \
 && python -m pip --python /opt/ingress/bin/python check

# The same base, so that the interpreter the environment links to is at the same place.
FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="aioingress" \
      org.opencontainers.image.description="HTTP Ingress controller and layer-7 reverse proxy for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing is written at run time: the bytecode was compiled on installation, and the root file system may be read-only.
ENV PATH="/opt/ingress/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/ingress /opt/ingress
# A number, so that runAsNonRoot can be verified; it needs no entry in /etc/passwd and no home.
USER 65532:65532
WORKDIR /
EXPOSE 8080 8443 10254
STOPSIGNAL SIGTERM
# /healthz and /readyz on 10254 are for the orchestrator, which knows when to ask.
HEALTHCHECK NONE
ENTRYPOINT ["ingress"]
CMD ["serve"]
