# Thin: the work is in cargo and in the scripts that stand beside what they serve.
SHELL := /bin/sh
export CARGO_TARGET_DIR ?= $(CURDIR)/target

.PHONY: help deps build demo demo-image test guest-test conformance tempest-conf lint bench down clean-demo

help:           ## What there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps:           ## Install the Debian packages that building and running need
	@scripts/deps.sh

build: deps     ## Build the binary: $CARGO_TARGET_DIR/release/yunfan
	cargo build --release --locked

demo: build     ## Start a cloud and run the story: a container and a VM of one tenant talk to each other
	@demo/run.sh

demo-image:     ## Build the demo's web image; prints the path of its OCI archive
	@demo/web-image.sh "$(CARGO_TARGET_DIR)/demo"

down:           ## Stop the demo's cloud and remove everything it made
	@demo/down.sh

tempest-conf: deps ## Write a tempest.conf (OUT=FILE) for the cloud that OS_CLOUD and OS_CLIENT_CONFIG_FILE name
	@tests/tempest/conf.sh "$(OUT)"

lint:           ## Formatting, lints, and the rules of this repository
	@scripts/lint.sh

test: build     ## Everything that CI runs
	@scripts/test.sh

guest-test: build ## What most machines can't run, in a Debian guest: systemd, cgroup v2 alone, NFS of the kernel
	@scripts/deps.sh debootstrap e2fsprogs
	@tests/guest/run.sh

conformance: build ## Kubernetes' own conformance tests, which are built first, with Go; an hour
	@tests/conformance/run.sh

bench: build    ## Benchmarks, each beside a peer or a limit measured in the same run
	@bench/run.sh
