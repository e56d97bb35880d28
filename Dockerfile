# The images, for whoever has Docker; `cargo xtask cluster install` builds the same without it.
#   docker build -t REGISTRY/tourniquet-operator:TAG .
#   docker build -t REGISTRY/tourniquet-agent:TAG --target agent .
#   docker build -t REGISTRY/tourniquet-intake:TAG --target intake .
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /source
COPY . .
# As `cargo xtask` does: where it is built is in no program.
ENV RUSTFLAGS="--remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/usr/local/rustup/toolchains=/rust"
RUN cargo build --release --locked --package tourniquet-operator --package tourniquet-agent --package tourniquet-intake \
    && cp target/release/tourniquet-operator target/release/tourniquet-agent target/release/tourniquet-intake /

FROM scratch AS agent
COPY --from=build /tourniquet-agent /tourniquet-agent
USER 0:0
ENTRYPOINT ["/tourniquet-agent"]

FROM scratch AS intake
COPY --from=build /tourniquet-intake /tourniquet-intake
USER 65532:65532
ENTRYPOINT ["/tourniquet-intake"]

FROM scratch
COPY --from=build /tourniquet-operator /tourniquet-operator
USER 65532:65532
ENTRYPOINT ["/tourniquet-operator"]
