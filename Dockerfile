# One image for both planes; docker-compose.yml says which binary runs.

# The dependencies are a layer of their own, so that a change of our code does not compile them again: this stage reduces
# the sources to what decides about the dependencies.
FROM rust:1.95-bookworm AS skeleton
WORKDIR /src
COPY . .
RUN docker/skeleton /src /skeleton

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY --from=skeleton /skeleton .
RUN cargo build --release --locked --package trunkline-control --package trunkline-worker --package trunkline-cli
COPY . .
# Copied files keep their dates, and cargo goes by dates: without `touch` the empty sources above would count as newer.
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo build --release --locked --package trunkline-control --package trunkline-worker --package trunkline-cli \
    && mkdir /out \
    && cp target/release/trunkline-control target/release/trunkline-worker target/release/trunkline /out/

FROM debian:bookworm-slim
RUN groupadd --system --gid 10001 trunkline \
    && useradd --system --uid 10001 --gid trunkline --home-dir /var/lib/trunkline --create-home trunkline \
    && mkdir /bootstrap \
    && chown trunkline:trunkline /bootstrap /var/lib/trunkline \
    && chmod 0700 /bootstrap /var/lib/trunkline
COPY --from=build /out/ /usr/local/bin/
COPY docker/probe /usr/local/bin/probe
USER trunkline
WORKDIR /var/lib/trunkline
VOLUME ["/var/lib/trunkline", "/bootstrap"]
CMD ["trunkline-control"]
