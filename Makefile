# Two commands to start with: `sudo make demo` and `sudo make test`. `make help` lists the rest.
# Under sudo, cargo runs as the caller (deploy/cargo), so target/ stays theirs.

PREFIX ?= /usr
SYSCONFDIR ?= /etc
UNITDIR ?= /lib/systemd/system
DESTDIR ?=
CARGO := deploy/cargo
# Cargo says where it builds to; another directory may be set by CARGO_TARGET_DIR.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

deps: ## installs the packages and the Rust that a build takes (root)
	@deploy/install-build-deps

build: ## the release binary, target/release/xshelf
	@$(CARGO) --which >/dev/null && deploy/install-build-deps --check >/dev/null 2>&1 || deploy/install-build-deps
	@$(CARGO) build --release --locked

demo: ## a shelf and an initiator in two network namespaces of this machine (root; DEMO_SECONDS=10)
	@deploy/demo

test: ## everything the gate runs (root): style, unit, integration, simulator, loom, namespaces, virtual machines
	@tests/run.sh

test-unit: ## the tests that need neither root nor kernel features
	@tests/run.sh unit

test-vm: ## the Linux initiator in a virtual machine against xshelf (root)
	@tests/run.sh vm-all

test-bare: ## installs, builds and tests in bare Debian roots (root)
	@tests/run.sh bare

simulate: ## lives through SEEDS=1000 worlds of the simulator, FROM=1, on all CPUs; or through the one of SEED=
	@SEED=$(SEED) SEEDS=$(SEEDS) FROM=$(FROM) RUST_BACKTRACE=0 $(CARGO) test --quiet --profile simulate --test simulate -- --ignored --exact many --nocapture

fuzz: ## looks for inputs that break the frame path or a file's reader (FUZZ_RUNS=200000 for each target)
	@tests/fuzz/run.sh

mutations: ## plants known bugs one at a time, and shows what catches each (root; SEEDS=2000; an hour)
	@tests/mutations/run.sh

sanitize: ## Miri and AddressSanitizer over rings, frame memory and the whole program (root; an hour)
	@tests/sanitize/run.sh

powercut: ## cuts the power under verified load, again and again (root; CUTS=200, SEED=n, XSHELF_BIN=path)
	@$(CARGO) build --locked --bins --package xshelf --package xshelf-faultdisk --package xshelf-powercut
	@$(TARGET)/debug/powercut --cuts $(or $(CUTS),200) $(if $(SEED),--seed $(SEED))

# Torture of the real binary; short pieces of it are in `make test`. tests/README.md has a line for each.
CYCLES ?= 500
SECONDS ?= 600
PAIRS ?= 5
HANG ?= 30
TIMES ?= 20
torture = $(CARGO) build --release --locked --package xshelf --package xshelf-faultdisk --package xshelf-torture && \
    nice $(TARGET)/release/xshelf-torture $(if $(SEED),--seed $(SEED))

torture-kill: ## SIGKILL and restart under verified load on eight slots (root; CYCLES=500)
	@$(torture) kill --cycles $(CYCLES)

torture-wire: ## verified load on a wire that loses, repeats and reorders frames (root; SECONDS=600)
	@$(torture) wire --seconds $(SECONDS)

torture-hang: ## one of eight disks hangs: latency of the others with and without (root; PAIRS=5 HANG=30)
	@$(torture) hang --pairs $(PAIRS) --hang $(HANG)
	@$(torture) hang --pairs $(PAIRS) --hang $(HANG) --device

torture-rest: ## disks vanish, the link flaps, memory is short, under verified load (root; TIMES=20)
	@$(torture) yank --times $(TIMES)
	@$(torture) flap --flaps $(TIMES)0
	@$(torture) press --seconds $(TIMES)

fmt: ## formats the sources
	@$(CARGO) fmt --all

install: build ## binary, unit, example configuration and nic-setup, below DESTDIR
	install -D -m 755 $(TARGET)/release/xshelf $(DESTDIR)$(PREFIX)/sbin/xshelf
	install -D -m 755 deploy/nic-setup $(DESTDIR)$(PREFIX)/sbin/xshelf-nic-setup
	install -d $(DESTDIR)$(UNITDIR)
	@# The units name the programs by their whole path.
	for unit in xshelf.service xshelf-nic@.service; do \
	    sed 's,/usr/sbin/,$(PREFIX)/sbin/,; s,/usr/share/,$(PREFIX)/share/,; s,/etc/xshelf/,$(SYSCONFDIR)/xshelf/,g' deploy/$$unit \
	        >$(DESTDIR)$(UNITDIR)/$$unit && chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	install -D -m 644 deploy/xshelf.toml $(DESTDIR)$(PREFIX)/share/doc/xshelf/xshelf.toml
	install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE NOTICE $(DESTDIR)$(PREFIX)/share/doc/xshelf/
	@# An edited configuration stays.
	[ -e $(DESTDIR)$(SYSCONFDIR)/xshelf/xshelf.toml ] || \
	    install -D -m 644 deploy/xshelf.toml $(DESTDIR)$(SYSCONFDIR)/xshelf/xshelf.toml

uninstall: ## removes what install put there, but not the configuration
	rm -f $(DESTDIR)$(PREFIX)/sbin/xshelf $(DESTDIR)$(PREFIX)/sbin/xshelf-nic-setup
	rm -f $(DESTDIR)$(UNITDIR)/xshelf.service $(DESTDIR)$(UNITDIR)/xshelf-nic@.service
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/xshelf

clean: ## removes what cargo built
	@$(CARGO) clean

.PHONY: mutations sanitize help deps build demo test test-unit test-vm test-bare simulate sanitize powercut torture-kill torture-wire torture-hang torture-rest fuzz fmt install uninstall clean
