# packhold: see README.md. `make demo` shows it at work, `make test` proves it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules

GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PLATFORMS := linux/amd64 linux/arm64 linux/386 darwin/arm64 freebsd/amd64 windows/amd64
FUZZTIME ?= 20s
OUTAGE ?= 5m
# Packages whose goroutines share memory. The race detector costs them five to ten times the time.
RACE := ./backends/... ./chunk/... ./index/... ./pack/... ./repo/... ./cmd/...
# Flags of `make bench`, such as: make bench BENCH='-corpora random -scale 0.1'
BENCH ?=

.PHONY: build test outage demo bench bench-scale bench-remote bench-hosts fuzz soak lint cross setup clean

build:
	$(GO) build -trimpath -o build/packhold ./cmd/packhold

# What the tests need on a fresh Debian machine with Go. Nothing is installed that is there.
setup:
	@tests/setup.sh
	$(GO) mod download

test: setup
	$(GO) vet ./...
	$(GO) test -timeout 15m ./...
	$(GO) test -timeout 15m -race -short $(RACE)

# What a storage that is away for OUTAGE does to a backup, a verify and a restore. It sleeps most of the time.
outage: setup
	PACKHOLD_OUTAGE=$(OUTAGE) $(GO) test -count 1 -timeout 30m -run '^TestOutage$$' ./tests

# Builds, backs up real files, changes some, backs up again, lists, restores, compares, verifies.
demo: build
	@tests/demo.sh build/packhold

# restic and borg beside packhold on the same files; a table in build/bench.md.
bench: build
	@tests/setup.sh bench
	$(GO) run ./tests/bench -packhold build/packhold -out build/bench.md $(BENCH)

# Cost against the number of files and blobs: a table in build/scale.md, the plot in docs/scale.svg. It needs root, and 6 GB of tmpfs.
bench-scale: build
	$(GO) run ./tests/bench scale -packhold build/packhold $(BENCH)

# packhold beside restic against S3 and SFTP servers on the loopback, with 0, 20 and 100 ms of round trip added: a table in build/bench-remote.md.
bench-remote: build
	@tests/setup.sh bench
	$(GO) run ./tests/bench remote -packhold build/packhold $(BENCH)

# What several hosts store in a second, all at once: a table in build/bench-hosts.md.
bench-hosts: build
	$(GO) run ./tests/bench hosts -packhold build/packhold $(BENCH)

# Every fuzz target for FUZZTIME. Crashing inputs land in the package's testdata/fuzz.
fuzz:
	@for pkg in $$($(GO) list ./...); do \
	  dir=$$($(GO) list -f '{{.Dir}}' $$pkg); \
	  for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go 2>/dev/null | cut -c6- | sort); do \
	    echo "== $$pkg $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

# The tests of crashes and interleavings, many times longer.
soak: setup
	PACKHOLD_SOAK=1 PACKHOLD_OUTAGE=16m $(GO) test -count 1 -timeout 6h -v -run 'Outage|Kill|Crash|PowerLoss|Fault|Simulat|NoSpace|Damage|Every|Model|Fleet|SameFiles|ManyLeases|Overtaken' ./tests ./pack ./repo/... ./backends/...

lint:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted with gofmt:"; echo "$$files"; exit 1; fi
	@for p in $(PLATFORMS); do \
	  echo "go vet $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) vet ./...; \
	done
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count 1 -run 'TestLayers|TestRooms|TestPackage|TestTopLevel|TestShapes' ./tests

cross:
	@for p in $(PLATFORMS); do \
	  echo "go build $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) build -buildvcs=false ./...; \
	done

clean:
	rm -rf build
