//! Starts real PostgreSQL servers for the tests.
