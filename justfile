# The recipes of this project; `just` alone does what CI does. Needs https://just.systems; each
# line can be run by hand as well.

# Everything that has to be green before a change lands.
default:
    ./.ci/run

# Format.
fmt:
    cargo fmt

# Lints, as strict as CI.
clippy:
    cargo clippy --all-targets -- -D warnings

# Every test, or those whose name contains NAME: `just test attack_06`.
test NAME='':
    ./tests/run {{NAME}}

# Every parser that a stranger reaches, fuzzed for SECONDS each.
fuzz SECONDS='60' TARGET='':
    ./tests/fuzz {{SECONDS}} {{TARGET}}

# Documentation of the code, private items included.
doc:
    cargo doc --no-deps --document-private-items --open

# Licences, advisories and sources of the dependencies (cargo install cargo-deny); CI leaves the
# advisories out.
deny:
    cargo deny check

# Figures for benches/README.md.
bench:
    cargo bench --bench load

# One node in the default settings.
run *ARGUMENTS:
    cargo run --release -- {{ARGUMENTS}}

# N nodes on loopback that know one another, each with a login token; Ctrl-C stops them all.
cluster N='3':
    cargo build --release
    ./tests/cluster target/release/messagehub {{N}}
