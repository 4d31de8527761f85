# The facade in one image: API, worker, migrations, playbooks, stacks and the command line.
#
#   docker build -t ironyard:0.1.0 .
#
# Where the build reaches no package index, put the packages into build/wheels and keep pip from asking:
#
#   pip download --only-binary :all: --require-hashes --no-deps -r constraints.txt -d build/wheels
#   docker build --build-arg PIP_NO_INDEX=1 -t ironyard:0.1.0 .
ARG BASE=python:3.11-slim

FROM ${BASE} AS packages
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/ironyard
# The pattern lets build/wheels be absent.
COPY constraints.txt build/wheel[s] /packages/
RUN python3 -m venv .venv \
 && .venv/bin/pip download --quiet --no-deps --require-hashes --only-binary :all: --find-links /packages \
      --dest /packages --requirement /packages/constraints.txt
# What was downloaded has the hashes of the lock; of it, only what the platform needs at run time is installed.
COPY pyproject.toml README.md ./
RUN mkdir api stacks && touch api/__init__.py stacks/__init__.py \
 && .venv/bin/pip install --quiet --no-index --find-links /packages --editable . \
 && rm -r api stacks

FROM ${BASE}
RUN set -e; missing=""; \
    for program in ssh:openssh-client tini:tini busybox:busybox-static; do \
      command -v "${program%%:*}" >/dev/null || missing="$missing ${program#*:}"; \
    done; \
    if [ -n "$missing" ]; then \
      apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; \
      rm -rf /var/lib/apt/lists/*; \
    fi; \
    useradd --uid 10001 --user-group --create-home --home-dir /var/lib/ironyard --shell /usr/sbin/nologin ironyard
WORKDIR /opt/ironyard
COPY --from=packages /opt/ironyard ./
COPY ansible.cfg ./
COPY inventory inventory
COPY playbooks playbooks
COPY templates templates
COPY stacks stacks
COPY api api
ENV PATH=/opt/ironyard/.venv/bin:$PATH \
    HOME=/var/lib/ironyard \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    IRONYARD_MODE=production \
    IRONYARD_HOST=0.0.0.0 \
    IRONYARD_DATA_DIR=/var/lib/ironyard
RUN python3 -m compileall -q api stacks
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["ironyard", "health"]
# ssh leaves masters behind that somebody has to reap, so the first process is an init.
ENTRYPOINT ["tini", "--", "ironyard"]
CMD ["serve"]
