# The packages are chosen where uv is; the image that runs holds Python and them, and no tools to change either.
FROM python:3.11-slim AS build
ENV UV_PROJECT_ENVIRONMENT=/opt/wenming UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
RUN pip install --no-cache-dir uv
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ledger ledger
COPY projections projections
COPY api api
RUN uv sync --no-default-groups --no-editable --compile-bytecode

FROM python:3.11-slim
# The folders exist with their owner, so that named volumes laid over them may be written by no one else.
# Signer and witness are users of their own, so that a break-in at the API reaches neither.
RUN useradd --system --uid 10001 --no-create-home wenming \
 && useradd --system --uid 10002 --no-create-home wenming-signer \
 && useradd --system --uid 10003 --no-create-home wenming-witness \
 && install -d -o wenming -m 0700 /data /keys /master \
 && install -d -o wenming-signer -m 0700 /signing /signer-state \
 && install -d -o wenming-witness -m 0700 /witness
COPY --from=build /opt/wenming /opt/wenming
ENV PATH=/opt/wenming/bin:$PATH PYTHONUNBUFFERED=1 \
    WENMING_DATABASE=sqlite:////data/ledger.db \
    WENMING_KEYS=sqlite:////keys/ledger.keys.db \
    WENMING_MASTER_KEY_FILE=/master/ledger.master \
    WENMING_HOST=0.0.0.0 WENMING_PORT=8000
USER wenming
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["wenming", "serve"]
