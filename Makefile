# Everything here runs on a bare machine with Go and the tools that .ci/run installs; kubetest
# as root.
# Results go to build/.

GO        ?= go
FUZZTIME  ?= 10s
SOAKKILLS ?= 250
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS   := -s -w -X github.com/ashlar-mesh/ashlar/cli.Version=$(VERSION) -X github.com/ashlar-mesh/ashlar/coordinator/daemon.Version=$(VERSION) -X github.com/ashlar-mesh/ashlar/marble/command.Version=$(VERSION) -X github.com/ashlar-mesh/ashlar/kube/injector.Version=$(VERSION)
GENERATED := docs/errors.md marble/marblepb/marble.pb.go marble/marblepb/marble_grpc.pb.go coordinator/internal/api/openapi.json
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test race unit dockerfiles ego integration differential portable browser kubetest cluster fuzz lint vulncheck generate check-generated demo scenario bench soak check tools clean

build:
	$(GO) build -ldflags '$(LDFLAGS)' -o build/bin/ ./cmd/...
	$(GO) build -o build/bin/shop-gateway ./samples/shop/gateway

tools:
	@./scripts/envoy.sh

# test is what CI runs.
test: lint vulncheck check-generated dockerfiles race ego portable integration browser kubetest cluster differential demo scenario

unit:
	$(GO) test ./...

# race tests all packages, with the race detector but for manifest: it starts no
# goroutine, and judging its random worlds would take minutes.
race: tools
	$(GO) test ./manifest/...
	ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy $(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v -e /integration -e ashlar/manifest)

# dockerfiles checks them with hadolint.
dockerfiles:
	@./scripts/dockerfiles.sh

# ego builds what runs in enclaves with and without EGo and cgo, and tests what
# only the tag compiles. A C compiler is enough for it.
ego:
	@for cgo in 0 1; do for tags in "" ego; do \
		CGO_ENABLED=$$cgo $(GO) build -tags "$$tags" -o build/ego/ ./cmd/ashlar-coordinator ./cmd/ashlar-marble ./samples/ego || exit 1; \
	done; done
	CGO_ENABLED=1 $(GO) vet -tags ego ./attest/issuer/... ./cmd/... ./samples/ego
	CGO_ENABLED=1 $(GO) test -tags ego ./attest/issuer/...

integration: build tools
	ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) test -timeout 30m -count=1 $$($(GO) list ./integration/... | grep -v -e /differential -e /browser -e /kube -e /cluster)

# differential compares our verdicts with other implementations'.
differential:
	@./scripts/qvl.sh
	ASHLAR_DCAP_QVL=$(CURDIR)/build/tools/qvl/bin/python $(GO) test -count=1 ./integration/differential

# portable builds the verifier for every system and runs its tests under Node.
portable:
	@./scripts/portable.sh

# browser builds the page that verifies bundles and tries it in Chromium.
browser:
	@./scripts/browser.sh build/browser-verify
	ASHLAR_SITE=$(CURDIR)/build/browser-verify $(GO) test -count=1 ./integration/browser

# kubetest runs against a real Kubernetes API server. Its first run on a machine
# builds the control plane, which takes some minutes.
kubetest: build tools
	@./scripts/controlplane.sh
	ASHLAR_CONTROLPLANE=$(CURDIR)/build/tools/controlplane ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) test -timeout 30m -count=1 ./integration/kube/...

# cluster runs what needs a real etcd, which comes with kubetest's control plane.
cluster: build tools
	@./scripts/controlplane.sh
	ASHLAR_ETCD=$(CURDIR)/build/tools/etcd ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) test -timeout 30m -count=1 -parallel 4 -run Cluster ./internal/etcdtest ./coordinator/internal/store/etcd ./coordinator/internal/replica ./coordinator/daemon ./integration/cluster

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

vulncheck:
	@./scripts/vulncheck.sh

generate:
	$(GO) generate ./...
	@./scripts/proto.sh

# check-generated fails if generating changes what is there.
check-generated:
	@before=$$(cat $(GENERATED) | cksum); $(MAKE) --no-print-directory generate && \
	{ test "$$before" = "$$(cat $(GENERATED) | cksum)" || { echo "generated files were out of date: commit $(GENERATED)"; exit 1; }; }

# fuzz runs every fuzz target for FUZZTIME, one after the other.
fuzz:
	@./scripts/fuzz.sh $(FUZZTIME)

demo: build tools
	@build/bin/ashlar dev demo

# scenario lives through three weeks of a deployment under a simulated clock.
scenario: tools
	@$(GO) run ./integration/scenario -envoy $(CURDIR)/build/tools/envoy

bench: build tools
	@ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) run ./integration/bench -o build/bench.json

# soak runs what takes too long for every change.
soak: build tools
	ASHLAR_KILLS=$(SOAKKILLS) $(GO) test -timeout 60m -count=1 ./coordinator/internal/store/...
	ASHLAR_SOAK=1 ASHLAR_KILLS=$(SOAKKILLS) ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) test -timeout 60m -count=1 $$($(GO) list ./integration/... | grep -v -e /differential -e /browser -e /kube -e /cluster)
	@./scripts/controlplane.sh
	ASHLAR_SOAK=1 ASHLAR_ETCD=$(CURDIR)/build/tools/etcd ASHLAR_ENVOY=$(CURDIR)/build/tools/envoy ASHLAR_BIN=$(CURDIR)/build/bin $(GO) test -timeout 60m -count=1 -parallel 2 -run Cluster ./integration/cluster

check: lint unit ego

clean:
	rm -rf build
