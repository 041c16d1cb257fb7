# Commands of this project; `make help` lists them. Each target is one script, which describes itself at its top.
#
# PG_MAJOR=15..18   the PostgreSQL version (default: the first of these that is installed or that apt offers)
# PG_CONFIG=path    a PostgreSQL of your own instead
# AS_SHIPPED=1      makes `make test` build the extension as it is shipped, which takes twice the time

export PG_MAJOR PG_CONFIG AS_SHIPPED TEST_VERSIONS CITY_DATABASE ASN_DATABASE COWRIE_LOG CHECK
export SEED SEEDS ROUNDS
export CYMRU GREYNOISE_KEY_FILE DSHIELD_CONTACT SPUR_TOKEN_FILE

.PHONY: help demo demo-stop real-log test test-all torture fuzz bench regress lint install package dist clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## enriched honeypot sessions from nothing; own files: CITY_DATABASE= ASN_DATABASE= COWRIE_LOG=, providers: see demo/run
	@demo/run

demo-stop: ## stop the demo's server
	@scripts/cluster stop demo

real-log: ## the demo with full-size databases and COWRIE_LOG=file, and a check of every count
	@test -n "$(COWRIE_LOG)" || { echo "make real-log needs COWRIE_LOG=file" >&2; exit 2; }
	@scripts/install-deps
	@scripts/fetch-real-databases
	@CHECK=1 CITY_DATABASE="$(CURDIR)/target/real/city.mmdb" ASN_DATABASE="$(CURDIR)/target/real/asn.mmdb" demo/run

test: ## the fast suites on one version of PostgreSQL; TEST=counts: one suite, or tests by their name
	@scripts/test $(TEST)

test-all: ## all suites, on PostgreSQL 15 to 18 (TEST_VERSIONS='15 18': on these); the last line is "N passed, N failed"
	@scripts/test all

torture: ## random obstacles, kills and a failover, then a recount of every count; SEED= repeats a run, SEEDS= and ROUNDS= its length
	@scripts/torture

bench: ## benchmarks, as ratios measured in one run
	@bench/run

regress: ## SQL files against their expected output; TEST=bogon: one file
	@scripts/regress $(TEST)

fuzz: ## each parser of foreign bytes for FUZZ_SECONDS (300), under AddressSanitizer where a nightly Rust is
	@scripts/fuzz

lint: ## formatting, and clippy without a warning
	@scripts/lint

install: ## build and install into the PostgreSQL of PG_CONFIG
	@scripts/install-deps
	@scripts/install-extension system

package: ## a Debian package for each version of PostgreSQL (PG_MAJOR=: for that one), in target/packages
	@env -u PG_MAJOR scripts/install-deps test
	@scripts/package $(PG_MAJOR)

dist: ## the archive for PGXN: the sources of this commit with META.json, in target/packages
	@scripts/dist

clean: ## stop scratch servers, delete target/
	@scripts/clean
