# The image: the binary on a slim Debian, not as root.
#
#   docker build -t signalpost:0.1.0 .
#
# Pin both base images by digest where you build for production.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin signalpost \
  && install -D target/release/signalpost /root-of-image/usr/local/bin/signalpost \
  && install -d -o 65532 -g 65532 -m 0750 /root-of-image/var/lib/signalpost

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="Signalpost" \
      org.opencontainers.image.description="Webhook delivery: durable gRPC ingest, signed HTTPS delivery" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of-image /
USER 65532:65532
ENV SIGNALPOST_STORE_PATH=/var/lib/signalpost/store
VOLUME /var/lib/signalpost
EXPOSE 8080 8081 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/signalpost"]
CMD ["serve"]
