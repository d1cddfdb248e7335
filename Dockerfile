# One image for every process of the fleet: `docker compose up --build`.
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 orchestrator \
    && mkdir -p /data /documents /policies && chown orchestrator /data /policies
WORKDIR /app

COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY . .
RUN pip install --no-cache-dir --no-deps .

USER orchestrator
ENV ORCHESTRATOR_DATA_DIR=/data \
    ORCHESTRATOR_AUDIT_KEY_FILE=/data/audit.key \
    ORCHESTRATOR_SECRETS_KEY_FILE=/data/secrets.key \
    ORCHESTRATOR_DOCUMENTS_ROOTS=/documents \
    PYTHONUNBUFFERED=1
VOLUME /data
ENTRYPOINT ["orchestrator"]
CMD ["--help"]
