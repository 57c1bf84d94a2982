# The image: one static program on nothing, not as root.
#
#   docker build -t signalpost:0.1.0 .
#
# There is no shell and no library in it: names are resolved by the C library inside of the program, from
# /etc/resolv.conf and /etc/hosts as the runtime mounts them; root certificates are in the program too.
# Pin the base image by digest where you build for production.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# `--target` keeps the flag from build scripts and macros, which the compiler loads as libraries.
RUN target="$(rustc --print host-tuple)" \
  && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --bin signalpost --target "$target" \
  && install -D "target/$target/release/signalpost" /root-of-image/usr/local/bin/signalpost \
  && install -d -o 65532 -g 65532 -m 0750 /root-of-image/var/lib/signalpost

FROM scratch
LABEL org.opencontainers.image.title="Signalpost" \
      org.opencontainers.image.description="Webhook delivery: durable gRPC ingest, signed HTTPS delivery" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of-image /
USER 65532:65532
ENV SIGNALPOST_STORE_PATH=/var/lib/signalpost/store
VOLUME /var/lib/signalpost
EXPOSE 8080 8081 9090
STOPSIGNAL SIGTERM
# The health port is in plaintext and on loopback by default. Kubernetes has probes of its own and passes this over.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["/usr/local/bin/signalpost", "health", "readiness", "--quiet", "--server", "http://127.0.0.1:8081"]
ENTRYPOINT ["/usr/local/bin/signalpost"]
CMD ["serve"]
