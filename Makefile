# The short way to everything; meson does the work. `make` leaves the program at build/plenum.
BUILD ?= build

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja: | deps-build
	@meson setup $(BUILD)

# Debian packages that are missing are installed, and said so (tools/deps).
deps-build deps-demo deps-test deps-bench deps-fuzz:
	@tools/deps $(@:deps-%=%)

demo: deps-demo all
	@PLENUM=$(abspath $(BUILD))/plenum examples/demo/run

test: deps-test
	@tools/test $(BUILD)

bench: deps-bench all
	@bench/run $(BUILD)

fuzz: deps-fuzz
	@tools/fuzz

install: all
	@meson install -C $(BUILD)
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD) build-*

.PHONY: all deps-build deps-demo deps-test deps-bench deps-fuzz demo test bench fuzz install format clean
