# Keyway: `make help` lists the targets.
CACHE   ?= $(or $(KEYWAY_CACHE),$(HOME)/.cache/keyway)
BIN     := $(CACHE)/bin
DATA    ?= .keyway
VERSION := $(shell cat VERSION)
GOFLAGS := -buildvcs=false
PROBE   ?= integration/edgeprobe
UNIT     = $(shell go list ./... | grep -v /integration)
export GOFLAGS KEYWAY_CACHE := $(CACHE)

.DEFAULT_GOAL := help
.PHONY: help setup build run test unit integration race lint fmt bench probe proof soak kube-scale conformance fuzz manifests

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: ## install what tests and benchmarks need (Debian packages, pinned tools); safe to repeat
	@integration/setup.sh "$(CACHE)"

build: ## make bin/keyway
	@mkdir -p bin
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/keyway ./cmd/keyway

run: build ## run a gateway with the built-in starter document (data in .keyway)
	@bin/keyway serve --data-dir $(DATA) --log-format text --access-log off

test: unit race integration ## everything that must pass, real servers included; says what ran
	@echo "make test: all parts passed"

unit: ## tests that need nothing but Go
	go test $(UNIT)

race: ## the same under the race detector
	go test -race -shuffle=on -timeout 30m $(UNIT)

integration: build ## tests against real servers, and the laws of this repository
	go test -count=1 -timeout 60m -parallel 6 -v ./integration/... | integration/summary.sh

lint: ## formatting, vet, staticcheck, errorlint, tidy, known vulnerabilities
	@integration/lint.sh "$(BIN)"

fmt: ## format the code and apply the standard rewrites
	go fix ./...
	$(BIN)/gofumpt -w $$(git ls-files '*.go' | grep -Ev '^integration/(edgeprobe|vaultdev|pkubelet|minidns)/')

manifests: ## render deploy/manifests/keyway.yaml from the chart, and copy what the chart has of others
	cp deploy/crds/*.yaml deploy/chart/keyway/crds/
	cp deploy/prometheus/keyway.rules.yml deploy/chart/keyway/files/
	deploy/manifests/render.sh "$(BIN)/helm" > deploy/manifests/keyway.yaml.new
	mv deploy/manifests/keyway.yaml.new deploy/manifests/keyway.yaml

probe: build ## run the attack probe (PROBE=folder of its source) against a gateway made for it
	go run ./integration/cmd/probe -probe $(PROBE) -keyway bin/keyway

bench: build ## compare with nginx, HAProxy and Caddy in one interleaved run (QUICK=1: under 3 minutes; BENCHFLAGS='-only h2')
	go run ./integration/cmd/bench -keyway bin/keyway $(if $(QUICK),-quick) $(BENCHFLAGS)

proof: build ## break every source of credentials and rotate all of them under load (QUICK=1: 4 minutes; else an hour and a half)
	KEYWAY_REQUIRE=all PROOF=$(if $(QUICK),quick,full) PROOF_OUT=$(abspath integration/proof/latest.json) \
		go test -count=1 -timeout 4h -v -run '^TestProof$$' ./integration

soak: build ## every protocol at once under changes and deaths of targets, for SOAK (1h; QUICK=1: as in make test)
	KEYWAY_REQUIRE=all $(if $(QUICK),,SOAK=$(or $(SOAK),1h) SOAK_OUT=$(abspath integration/soak/latest.json)) \
		go test -count=1 -timeout 12h -v -run '^TestSoak$$' ./integration

kube-scale: build ## a cluster of 10,000 Ingresses and TLS Secrets and what its changes cost (QUICK=1: as in make test)
	KEYWAY_REQUIRE=all $(if $(QUICK),,KUBE_SCALE=full KUBE_SCALE_OUT=$(abspath integration/scale/latest.json)) \
		go test -count=1 -timeout 30m -v -run '^TestKubeScale$$' ./integration

conformance: build ## the Gateway API's own suite against a node made for it, as root (QUICK=1: a handful of it, as in make test)
	@mkdir -p integration/conformance
	KEYWAY_REQUIRE=all $(if $(QUICK),,CONFORMANCE=full CONFORMANCE_OUT=$(abspath integration/conformance/report.yaml)) \
		go test -count=1 -timeout 2h -v -run '^TestConformance$$' ./integration

fuzz: ## run every fuzz target for FUZZTIME (default 20s)
	@integration/fuzz.sh $(or $(FUZZTIME),20s)
