# Short names for what CI runs. `cargo xtask test` runs all of it.

_list:
    @just --list --unsorted

# Install the test peers and run every check
check:
    cargo xtask test

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

test:
    cargo nextest run --workspace -E 'not test(/^peers::/)'

# The real programs as processes, with the official SDKs
e2e:
    cargo xtask peers && cargo build --bins && cargo nextest run -p mcpm-tests

# The MCP conformance suite, alone and through mcpm
conformance *args:
    cargo xtask conformance {{args}}

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licenses, advisories and bans (cargo install cargo-deny)
deny:
    cargo deny check

# The images of deploy/docker, built and run where there is Docker
images *args:
    cargo xtask images {{args}}

fuzz seconds="30":
    cargo xtask fuzz --seconds {{seconds}}

bench *args:
    cargo xtask bench {{args}}

# Both programs as they are given to others, in target/dist
dist:
    cargo xtask dist

# A relay, an agent and the demo server
dev:
    cargo run --bin mcpm -- demo
