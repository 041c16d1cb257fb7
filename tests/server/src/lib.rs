//! Starts real PostgreSQL servers for the tests and asks them questions.
//!
//! | module | answers |
//! |---|---|
//! | `documentation` | which pages there are, and their sections, tables and SQL blocks |
//! | `invariants` | what holds at any moment, whatever was killed |
//! | `traffic` | clients that know what the server acknowledged |
//! | `torture` | obstacles in the way of a worker's steps |
//! | `installation` | which PostgreSQL, under which user, and where may clusters live |
//! | `cluster` | how a server starts, dies, comes back and is cleaned away |
//! | `clock` | a server's wall clock that a test sets while the server runs |
//! | `session` | one connection: run, ask, expect a refusal |
//! | `database` | one shared server per test binary, one database per test |
//! | `contents` | every row of ours that a database holds |
//! | `cymru` | a server whose workers ask a Team Cymru on loopback, and what it must have stored |
//! | `http` | a server whose workers ask GreyNoise, DShield and SPUR on loopback |
//! | `world` | the small internet that the fixtures describe |
//! | `hostile` | what an attacker puts where our names might be looked up |
//! | `hosts` | the two tables that the extension serves: Cowrie's and the analysts' |
//! | `recount` | what the counts must be, computed without the extension |
//! | `prometheus` | a real Prometheus, and promtool |
//! | `python_system` | an installation of the Python system, for importing it |
//! | `releases` | versions of the extension, and what a database has of one |
//! | `random` | repeatable randomness |
//! | `scrape` | a server whose metrics are scraped, and the scraper |
//! | `wait` | waits for a state, never for a time |

pub mod clock;
pub mod cluster;
pub mod contents;
pub mod cymru;
pub mod database;
pub mod documentation;
pub mod hostile;
pub mod hosts;
pub mod http;
pub mod installation;
pub mod invariants;
pub mod prometheus;
pub mod python_system;
pub mod random;
pub mod recount;
pub mod releases;
pub mod scrape;
pub mod session;
pub mod torture;
pub mod traffic;
pub mod wait;
pub mod world;

pub use cluster::{Cluster, Options};
pub use database::{Database, Door, database, fresh_database, shared};
pub use session::{Refusal, Session};
pub use wait::wait_until;
