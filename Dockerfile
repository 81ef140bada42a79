# MessageHub in a container: built from source, run as nobody in particular.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin messagehub
# Port 80 for a user who is not root: the only privilege, and it is the binary's.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libcap2-bin \
    && setcap cap_net_bind_service=+ep target/release/messagehub

FROM debian:bookworm-slim
RUN useradd --system --uid 4848 --create-home --home-dir /home/messagehub messagehub \
    && install -d -o messagehub -g messagehub -m 0700 /data
COPY --from=build /src/target/release/messagehub /usr/local/bin/messagehub
USER messagehub
VOLUME /data
# 4848: libp2p, TCP and QUIC. The homeserver and Element listen on loopback (see compose.yaml).
EXPOSE 4848/tcp 4848/udp
HEALTHCHECK --interval=30s --timeout=5s CMD ["messagehub", "status", "--data", "/data"]
ENTRYPOINT ["messagehub", "--data", "/data"]
