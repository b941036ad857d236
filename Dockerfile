FROM python:3.11-slim

# CPU wheels by default. An empty TORCH_INDEX takes PyPI's own wheel, which runs on CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 saif \
    && install -d -o saif -g saif /srv/saif /home/saif/.saif

USER saif
WORKDIR /srv/saif
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    SAIF_HOME=/home/saif/.saif \
    SAIF_HOST=0.0.0.0 \
    SAIF_PORT=8501

# A layer of its own: torch is installed again only when the requirements change.
COPY --chown=saif:saif Makefile requirements.txt ./
RUN make requirements TORCH_INDEX="$TORCH_INDEX"

COPY --chown=saif:saif . .
RUN make setup-run

EXPOSE 8501
VOLUME /home/saif/.saif
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD .venv/bin/python -c "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['SAIF_PORT'] + '/_stcore/health', timeout=4)"

CMD ["make", "run"]
