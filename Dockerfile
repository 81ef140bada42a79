# MessageHub in a container: built from source; the program, the libraries that it needs, and nothing else, run
# by a user who is not root.
#
# Needs BuildKit (Docker has it by default since 23) or Podman: an older builder stops at the first cache mount.
# Build arguments, all empty by default, for whoever reaches no public host:
#
#   DEBIAN_MIRROR   a mirror of Debian, in place of the one that the base image names: http://…
#   CRATES_MIRROR   a mirror of the crates, as cargo names it: sparse+https://…/
#   PROFILE         how it is built: `dist` (small, and slow to build) or `release`
#
# and `--build-context element=FOLDER` (in compose: additional_contexts) puts an unpacked Element into the image, for
# MESSAGEHUB__ELEMENT__PATH=/usr/share/element.

FROM scratch AS element

FROM rust:1.95-bookworm AS build
ARG DEBIAN_MIRROR
RUN if [ -n "$DEBIAN_MIRROR" ]; then \
        sed -i "s#http://[^/ ]*/debian#$DEBIAN_MIRROR/debian#" /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null || true; \
    fi \
    && apt-get update \
    && apt-get install -y --no-install-recommends libcap2-bin
WORKDIR /src
COPY . .
ARG CRATES_MIRROR
ARG PROFILE=dist
# The caches outlive a change of the source: only what changed is compiled again.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    if [ -n "$CRATES_MIRROR" ]; then \
        printf '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "%s"\n' "$CRATES_MIRROR" \
            >>/usr/local/cargo/config.toml; \
    fi \
    && cargo build --profile "$PROFILE" --locked --bin messagehub \
    && install -D "target/$PROFILE/messagehub" /image/usr/local/bin/messagehub
# Its libraries are glibc's, as `ldd` names them. Port 80 for a user who is not root is the only privilege: the
# program is permitted it (+p) and takes it by itself, so it also runs where it is not given.
RUN ldd /image/usr/local/bin/messagehub | grep -o '/[^ ]*' | xargs -I{} install -D {} /image{} \
    && install -d /image/etc /image/usr/share/element /empty \
    && echo 'messagehub:x:4848:4848::/data:/' >/image/etc/passwd \
    && setcap cap_net_bind_service=+p /image/usr/local/bin/messagehub

FROM scratch
COPY --from=build /image /
COPY --from=element / /usr/share/element/
COPY --from=build --chown=4848:4848 /empty /data
USER 4848:4848
ENV PATH=/usr/local/bin MESSAGEHUB_DATA=/data
VOLUME /data
# 4848: libp2p, TCP and QUIC. The homeserver and Element listen on loopback (see compose.yaml).
EXPOSE 4848/tcp 4848/udp
HEALTHCHECK --interval=10s --timeout=5s CMD ["messagehub", "status"]
ENTRYPOINT ["messagehub"]
