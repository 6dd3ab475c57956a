# Images of docker-compose.ha.yml: `gateway` (the last one, and the default) and `keepalived`.

# The release is trained: built with counters, run on calls, and built again with what they counted
# (docs/decisions/0029-a-release-is-trained.md). It takes twice the time, and a Redis for the calls.
FROM rust:1.92.0-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* \
 && rustup component add llvm-tools
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo xtask release \
 && cp target/trained/holdfast /holdfast

# The address that clients know, on one of two balancers (nginx/keepalived.conf).
FROM debian:12.12-slim AS keepalived
RUN apt-get update \
 && apt-get install --yes --no-install-recommends keepalived curl gettext-base \
 && rm -rf /var/lib/apt/lists/*
COPY nginx/keepalived.conf /etc/keepalived/keepalived.conf.template
CMD ["sh", "-c", "envsubst < /etc/keepalived/keepalived.conf.template > /etc/keepalived/keepalived.conf && exec keepalived --dont-fork --log-console --vrrp"]

FROM debian:12.12-slim AS gateway
# Certificates of servers and of Redis are checked against the system's.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/holdfast --create-home holdfast
COPY --from=build /holdfast /usr/local/bin/holdfast
COPY config/ha.yaml /etc/holdfast/holdfast.yaml
ENV HOLDFAST_CONFIG=/etc/holdfast/holdfast.yaml \
    HOLDFAST_DATA_DIR=/var/lib/holdfast
USER holdfast
VOLUME /var/lib/holdfast
EXPOSE 37373 37375
# Whether the node answers; whether it is ready for calls is for balancers to ask.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["holdfast", "status", "--admin", "127.0.0.1:37374"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
