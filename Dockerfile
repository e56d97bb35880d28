# The operator's image, for whoever has Docker: docker build -t REGISTRY/tourniquet-operator:TAG .
# `cargo xtask cluster install` builds the same image without it.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package tourniquet-operator && cp target/release/tourniquet-operator /tourniquet-operator

FROM scratch
COPY --from=build /tourniquet-operator /tourniquet-operator
USER 65532:65532
ENTRYPOINT ["/tourniquet-operator"]
