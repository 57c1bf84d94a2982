# The image: one static binary, nothing else. No shell, no package manager, no root.
#
#   docker build -t signalpost:0.1.0 .
#   docker run --read-only --cap-drop ALL -v signalpost:/var/lib/signalpost -p 127.0.0.1:8080:8080 signalpost:0.1.0
#
# Pin both by digest where you build for production.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# Static also for glibc: names are resolved in Rust, and root certificates are in the binary.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --release --locked --bin signalpost --target x86_64-unknown-linux-gnu \
  && install -D target/x86_64-unknown-linux-gnu/release/signalpost /root-of-image/usr/local/bin/signalpost \
  && install -d -o 65532 -g 65532 -m 0750 /root-of-image/var/lib/signalpost \
  && install -d -m 1777 /root-of-image/tmp

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
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/local/bin/signalpost", "health"]
ENTRYPOINT ["/usr/local/bin/signalpost"]
CMD ["serve"]
