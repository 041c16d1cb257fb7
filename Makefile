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

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## run the demo; for your own files set CITY_DATABASE=, ASN_DATABASE=, COWRIE_LOG=; for providers see demo/run
	@demo/run

demo-stop: ## stop the demo's server
	@scripts/cluster stop demo

real-log: ## run the demo with full-size mmdb files and COWRIE_LOG=file, and check every count
	@test -n "$(COWRIE_LOG)" || { echo "make real-log needs COWRIE_LOG=file" >&2; exit 2; }
	@scripts/install-deps
	@scripts/fetch-real-databases
	@CHECK=1 CITY_DATABASE="$(CURDIR)/target/real/city.mmdb" ASN_DATABASE="$(CURDIR)/target/real/asn.mmdb" demo/run

test: ## run the fast suites on one version of PostgreSQL; TEST=counts runs one suite, or tests by name
	@scripts/test $(TEST)

test-all: ## run all suites on PostgreSQL 15 to 18 (or TEST_VERSIONS='15 18'); the last line is "N passed, N failed"
	@scripts/test all

torture: ## run random faults, kills and a failover, then check every count; SEED= repeats a run, SEEDS= and ROUNDS= set its length
	@scripts/torture

bench: ## run the benchmarks and print ratios
	@bench/run

regress: ## run SQL files and compare the output with the expected output; TEST=bogon runs one file
	@scripts/regress $(TEST)

fuzz: ## fuzz each parser for FUZZ_SECONDS (300), with AddressSanitizer if a nightly Rust is installed
	@scripts/fuzz

lint: ## check formatting, and run clippy without warnings
	@scripts/lint

install: ## build and install into the PostgreSQL of PG_CONFIG
	@scripts/install-deps
	@scripts/install-extension system

package: ## build Debian packages in target/packages: one for each version of PostgreSQL (or for PG_MAJOR=), and one with the tools
	@env -u PG_MAJOR scripts/install-deps test
	@scripts/package $(if $(PG_MAJOR),$(PG_MAJOR) tools)

dist: ## build the archive for PGXN: the sources of this commit with META.json, in target/packages
	@scripts/dist

clean: ## stop scratch servers and delete target/
	@scripts/clean
