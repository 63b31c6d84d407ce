# A thin front of Meson and the scripts in tools/: "make help" lists what there is.
# Everything works on a fresh Debian with nothing but git and make, as root or by sudo.
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build
JOBS    ?= $(shell nproc)
MESON_ARGS ?=

ready = $(BUILD)/build.ninja

.PHONY: all help deps build run test test-unit test-e2e test-vm test-bare test-real lint bench fuzz soak \
	install uninstall clean format

all: build

help:
	@sed -n 's/^## //p' Makefile

## make             build into build/ (installs what building needs)
build: $(ready)
	@ninja -C $(BUILD) -j $(JOBS)

# The packages are looked at each time, which takes a few hundredths of a second.
$(ready): meson.build meson_options.txt tools/deps.sh
	@tools/deps.sh build
	@test -f $@ || meson setup $(BUILD) --prefix=$(PREFIX) $(MESON_ARGS) >$(BUILD).log 2>&1 || \
		{ cat $(BUILD).log; rm -f $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log
	@touch $@

## make deps        install all packages that building, running and testing need
deps:
	@tools/deps.sh build run test

## make run         show a VM at work on this machine
run:
	@tools/deps.sh build run
	@$(MAKE) --no-print-directory $(ready)
	@ninja -C $(BUILD) -j $(JOBS) src/cli/fvm src/cli/fvm-changes
	@tools/tour.sh $(BUILD)

## make test        every test: both compilers, sanitizers, lint, fuzzing, real VMs
test:
	@tools/deps.sh build run test
	@JOBS=$(JOBS) tools/test.sh unit clang asan lint fuzz faults e2e

## make test-unit   unit tests with gcc only
test-unit:
	@tools/deps.sh build test
	@JOBS=$(JOBS) tools/test.sh unit

## make test-e2e    real VMs only; TESTS="tests/e2e/x.bats .." chooses
test-e2e:
	@tools/deps.sh build run test
	@JOBS=$(JOBS) TESTS="$(TESTS)" tools/test.sh e2e

## make test-vm     the suite in KVM guests: Debian 12's kernel and a newer one
test-vm:
	@tools/deps.sh build run test vm
	@JOBS=$(JOBS) tools/test.sh vm

## make test-bare   what CI runs, on a Debian made for it that has git and make only; as root
test-bare:
	@tools/deps.sh run test
	@tools/test-bare.sh

## make test-real   databases, servers, languages, windows, a browser, busy while they travel; as root
test-real:
	@tools/deps.sh build run test
	@JOBS=$(JOBS) TESTS="$(TESTS)" tools/test.sh real

## make lint        formatting, clang-tidy, shellcheck, manuals, completions, licences, names
lint:
	@tools/deps.sh build test
	@JOBS=$(JOBS) tools/test.sh lint

## make fuzz        fuzz every parser; FUZZ_SECONDS=60 each
fuzz:
	@tools/deps.sh build test
	@JOBS=$(JOBS) FUZZ_SECONDS=$${FUZZ_SECONDS:-60} tools/test.sh fuzz

## make bench       every figure beside its peer's from the same run
bench: build
	@tools/deps.sh run bench
	@bench/run.sh $(BUILD)

## make soak        half an hour of checkpoint, restore and clone under load; SOAK_SECONDS=1800
soak: build
	@tools/deps.sh run
	@ninja -C $(BUILD) -j $(JOBS) tests/tools/soak
	@tools/soak-vin.sh $(BUILD) $${SOAK_SECONDS:-1800}

## make install     PREFIX=/usr/local DESTDIR=
install: build
	@tools/install.sh install $(BUILD) "$(PREFIX)" "$(DESTDIR)"

## make uninstall   the same PREFIX and DESTDIR; VMs stay where they are
uninstall: $(ready)
	@tools/install.sh uninstall $(BUILD) "$(PREFIX)" "$(DESTDIR)"

## make format      lay out all .c files as .clang-format says
format:
	@tools/deps.sh test
	@git ls-files '*.c' | xargs clang-format -i

## make clean       remove everything that was built (not the images of test-vm)
clean:
	@rm -rf $(BUILD) build-clang build-asan build-fuzz
