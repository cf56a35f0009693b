# The one image of Penstock: gateway, operator, fetcher of weights and llama.cpp server, chosen by command.
#
#   docker build -t penstock .
#   docker run penstock serve --upstream http://...      # or: operator, fetch, llama-server
#
# Any base with Python 3.11 or newer and glibc will do. Behind a mirror: --build-arg PIP_INDEX_URL=...
# All packages are pinned with hashes by requirements.lock; the result holds no pip, compiler or shell script of ours.
ARG BASE=docker.io/library/python:3.13.7-slim-bookworm

FROM ${BASE} AS base
# llama.cpp's own threads.
RUN ldconfig -p | grep -q 'libgomp\.so\.1' || { \
      apt-get update && apt-get install -y --no-install-recommends libgomp1 \
      && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; }

FROM base AS packages
RUN command -v strip || { apt-get update && apt-get install -y --no-install-recommends binutils; }
ARG PIP="python3 -m pip"
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ENV PIP="${PIP}" \
    INSTALL="install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile"
WORKDIR /source
COPY .ci/locked.py pyproject.toml requirements.lock ./
RUN python3 -m venv --without-pip /opt/penstock && python3 -m venv --without-pip /opt/build \
 && python3 locked.py --extra operator xllamacpp >needed.txt && python3 locked.py --only hatchling >build.txt \
 && ${PIP} --python /opt/penstock/bin/python ${INSTALL} --require-hashes -r needed.txt \
 && ${PIP} --python /opt/penstock/bin/python check \
 && ${PIP} --python /opt/build/bin/python ${INSTALL} --require-hashes -r build.txt
# llama.cpp comes with its symbols, 80 MB; the Kubernetes client has a thousand modules of which a dozen are loaded.
RUN find /opt/penstock/lib -name '*.so' -size +1M -exec strip --strip-unneeded {} + \
 && /opt/penstock/bin/python -m compileall -q -x '/kubernetes/.*/(api|models)/' /opt/penstock/lib

FROM packages AS program
COPY . .
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
 && ${PIP} --python /opt/penstock/bin/python ${INSTALL} --no-index --prefix /opt/program /wheel/*.whl \
 && /opt/penstock/bin/python -m compileall -q /opt/program/lib

FROM base
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="Makes local language models dependable." \
      org.opencontainers.image.licenses="Apache-2.0"
# Also under a number that a cluster chooses there is a name for who asks.
RUN echo 'penstock:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd && echo 'penstock:x:65532:' >>/etc/group \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip
COPY --from=packages /opt/penstock /opt/penstock
COPY --from=program /opt/program /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH HOME=/tmp USER=penstock PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["penstock"]
CMD ["--help"]
