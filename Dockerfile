# The image of llm-billing-proxy: built from source on Debian 12, run on Debian 12 with the libraries alone.
# tools/docker-test builds and runs it.
FROM debian:bookworm-slim AS build
WORKDIR /source
COPY tools/install-packages tools/
RUN tools/install-packages build
COPY . .
RUN tools/build release llm-billing-proxy && strip build/release/llm-billing-proxy

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="llm-billing-proxy" \
      org.opencontainers.image.description="Forwards LLM completions and bills each one once" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libfmt9 libmongoc-1.0-0 libsimdjson14 \
       libisal2 libsqlite3-0 libssl3 libtomlplusplus3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/llm-billing-proxy
COPY --from=build /source/build/release/llm-billing-proxy /usr/local/bin/
# Relative paths of the config file, `data_dir` among them, are on the volume.
WORKDIR /var/lib/llm-billing-proxy
VOLUME /var/lib/llm-billing-proxy
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/llm-billing-proxy"]
CMD ["-c", "/etc/llm-billing-proxy/config.toml"]
