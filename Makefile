# The words a person types. Everything real happens in tools/; build kinds stand in CMakePresets.json.
# Nothing is needed first but make and git: missing Debian packages are installed, and named.
MAKEFLAGS += --no-print-directory

.PHONY: build run test test-full bench bench-peers fuzz planted torture format clean

build: ## the release: build/release/llm-billing-proxy
	@tools/install-packages build
	@tools/build release llm-billing-proxy

run: ## a demo in front of a real small language model; Ctrl-C ends it
	@tools/install-packages build run
	@tools/build release llm-billing-proxy
	@/usr/bin/python3 tools/real_model.py build/release/llm-billing-proxy demo

test: ## every ordinary test
	@tools/install-packages build test bench
	@tools/test

test-full: ## the ordinary tests and what takes longer: fuzzing, clang-tidy, Docker, long end-to-end tests
	@tools/install-packages build test bench full torture
	@tools/test --full

bench: ## what the proxy costs, beside nginx and HAProxy; writes bench/results.md
	@tools/install-packages build bench
	@tools/build release llm-billing-proxy
	@bench/run

bench-peers: ## other LLM gateways, from the package registries, in one table with it; writes bench/gateways.md
	@tools/install-packages build run bench
	@tools/build release llm-billing-proxy
	@bench/run-gateways

fuzz: ## each fuzz target for SECONDS seconds (make fuzz SECONDS=600)
	@tools/install-packages build test
	@tools/fuzz $(or $(SECONDS),60)

torture: ## proves that no bill is lost, doubled or wrong: kills, faults, power cuts; SECONDS=1200 SEED=1; needs root
	@tools/install-packages build test torture
	@tools/build release llm-billing-proxy billing_test
	@tools/torture $(or $(SECONDS),1200) --seed $(or $(SEED),1)

format: ## clang-format over all C++ files
	@tools/install-packages test
	@find src fuzz bench -name '*.cc' -o -name '*.h' | xargs clang-format-14 -i

planted: ## one wrong version after another, and the test that sees it
	@tools/install-packages build test
	@tools/planted

clean: ## removes build/, with everything downloaded into it
	@rm -rf build
