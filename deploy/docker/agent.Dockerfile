# The agent, in two variants:
#
#   docker build -f deploy/docker/agent.Dockerfile -t mcpm .                    with node, uv and Python,
#                                                                     for servers that npx and uvx start
#   docker build -f deploy/docker/agent.Dockerfile --target slim -t mcpm:slim . the program alone, for
#                                                                     remote servers and mcpm tunnel
#
# From a program that was built before, in a folder with `mcpm`, `ca-certificates.crt` and an empty
# `home/`; a program that is not static needs a base with its libraries. Nothing is downloaded:
#
#   docker build -f deploy/docker/agent.Dockerfile --target prebuilt [--build-arg BASE=IMAGE] \
#     -t mcpm FOLDER
#
# Run it with `--init`: servers may leave processes behind that nobody but an init reaps.

ARG BASE=scratch
# Others, such as those of a mirror; that of RUST has musl, apk and cargo.
ARG RUST=rust:1-alpine
ARG FULL_BASE=node:22-bookworm-slim
ARG UV=ghcr.io/astral-sh/uv:0.9

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="mcpm" \
      org.opencontainers.image.description="Runs MCP servers and shares them" \
      org.opencontainers.image.source="https://github.com/pathintegral-institute/mcpm.sh" \
      org.opencontainers.image.licenses="MIT"
# Configuration, keys, logins and the caches of npx and uvx: one volume keeps them all.
ENV PATH=/usr/local/bin:/usr/bin:/bin \
    HOME=/home/mcpm \
    MCPM_CONFIG_DIR=/home/mcpm/.config/mcpm \
    MCPM_NON_INTERACTIVE=true
USER 65532:65532
# For `run --http --host 0.0.0.0`.
EXPOSE 6276
ENTRYPOINT ["/usr/local/bin/mcpm"]
CMD ["--help"]

FROM runtime AS prebuilt
COPY mcpm /usr/local/bin/mcpm
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --chown=65532:65532 home /home/mcpm
WORKDIR /home/mcpm
VOLUME /home/mcpm

# Alpine builds against musl: what comes out needs no library of any system.
FROM ${RUST} AS build
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p mcpm --bin mcpm \
    && mkdir -p /out/home \
    && cp target/release/mcpm /etc/ssl/certs/ca-certificates.crt /out/

FROM runtime AS slim
COPY --from=build /out/mcpm /usr/local/bin/mcpm
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/home /home/mcpm
WORKDIR /home/mcpm
VOLUME /home/mcpm

FROM ${UV} AS uv

FROM ${FULL_BASE} AS full
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /uvx /usr/local/bin/
COPY --from=build /out/mcpm /usr/local/bin/mcpm
COPY --from=build --chown=65532:65532 /out/home /home/mcpm
ENV HOME=/home/mcpm \
    MCPM_CONFIG_DIR=/home/mcpm/.config/mcpm \
    MCPM_NON_INTERACTIVE=true
USER 65532:65532
WORKDIR /home/mcpm
EXPOSE 6276
VOLUME /home/mcpm
ENTRYPOINT ["/usr/local/bin/mcpm"]
CMD ["--help"]
