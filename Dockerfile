# syntax=docker/dockerfile:1
#
# The one binary, for every service. No image could be pulled where this was written: each step was tried by hand on
# Debian 12 with the same packages, the build of the image itself was not.

FROM rust:1.95-slim-bookworm AS build
# For the C in aws-lc, zstd and jemalloc. No protoc: the .proto files are compiled in Rust.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches are not part of the image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/usr/local/cargo/git \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package talaria --bin talaria \
 && cp target/release/talaria /usr/local/bin/talaria

FROM debian:bookworm-slim
# The roots that upstreams' certificates are checked against.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/talaria --create-home talaria
COPY --from=build /usr/local/bin/talaria /usr/local/bin/talaria
# A talaria.toml that is mounted here is read.
WORKDIR /etc/talaria
USER talaria
# SIGTERM drains; `talaria` handles it as process 1.
STOPSIGNAL SIGTERM
ENTRYPOINT ["talaria"]
