# The relay: one static program, the roots of the public authorities, an empty /data, and nothing else.
#
#   docker build -f deploy/docker/relay.Dockerfile -t mcpm-relay .
#
# From a program that was built before, in a folder with `mcpm-relay`, `ca-certificates.crt` and an
# empty `data/`. A program that is not static needs a base with its libraries. Nothing is downloaded:
#
#   docker build -f deploy/docker/relay.Dockerfile --target prebuilt [--build-arg BASE=IMAGE] \
#     -t mcpm-relay FOLDER
#
# The stages are in this order because builders without BuildKit make every one before the target.

ARG BASE=scratch
# Another place to build in, such as a mirror's image: with musl, apk and cargo.
ARG RUST=rust:1-alpine

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="mcpm-relay" \
      org.opencontainers.image.description="Gives local MCP servers a public URL" \
      org.opencontainers.image.source="https://github.com/pathintegral-institute/mcpm.sh" \
      org.opencontainers.image.licenses="MIT"
# Everything that is written is below /data: the root may be mounted read-only.
ENV PATH=/usr/local/bin \
    MCPM_RELAY_DATA_DIR=/data
USER 65532:65532
# Visitors by HTTPS and HTTP, agents alone, admin (on loopback of the container unless said otherwise).
EXPOSE 443 80 6276 6277
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["/usr/local/bin/mcpm-relay", "health"]
ENTRYPOINT ["/usr/local/bin/mcpm-relay"]
CMD ["serve"]

FROM runtime AS prebuilt
COPY mcpm-relay /usr/local/bin/mcpm-relay
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --chown=65532:65532 data /data
VOLUME /data

# Alpine builds against musl: what comes out needs no library of any system.
FROM ${RUST} AS build
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p mcpm-relay --bin mcpm-relay \
    && mkdir -p /out/data \
    && cp target/release/mcpm-relay /etc/ssl/certs/ca-certificates.crt /out/

FROM runtime AS relay
COPY --from=build /out/mcpm-relay /usr/local/bin/mcpm-relay
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/data /data
VOLUME /data
