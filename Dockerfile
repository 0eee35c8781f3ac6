# A server for bundles, without TensorFlow: docs/deploy.md
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/headstart && /opt/headstart/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.11-slim
RUN useradd --system --create-home --uid 10001 headstart
COPY --from=build /opt/headstart /opt/headstart
ENV PATH=/opt/headstart/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HEADSTART_CACHE=/tmp/headstart
USER headstart
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["headstart", "serve", "--host", "0.0.0.0"]
