//! Starts real PostgreSQL servers for the tests.
//!
//! | module | content |
//! |---|---|
//! | `documentation` | the pages of the documentation: their sections, tables and SQL blocks |
//! | `invariants` | the invariants that hold at any time, after any kill |
//! | `traffic` | clients that know which sessions the server acknowledged |
//! | `torture` | faults in the steps of a worker |
//! | `installation` | the PostgreSQL under test, its user, and the directory for clusters |
//! | `cluster` | starts a server, kills it, starts it again and removes it |
//! | `citus` | a Citus cluster of three servers |
//! | `clock` | a server's wall clock that a test sets while the server runs |
//! | `session` | one connection: runs statements, reads rows, expects errors |
//! | `database` | one shared server per test binary, one database per test |
//! | `contents` | all rows of the extension in a database |
//! | `cymru` | a server with a stand-in for Team Cymru on loopback, and the expected contents of its tables |
//! | `http` | a server with stand-ins for GreyNoise, DShield and SPUR on loopback |
//! | `many_sites` | the sites and the central server of docs/many-sites.md |
//! | `networks` | lookups of networks at a stand-in for Team Cymru, and the expected values of the networks |
//! | `distributed_load` | random transactions, for a single server and for a Citus cluster |
//! | `world` | the small internet that the fixtures describe |
//! | `hostile` | objects of an attacker that could be found instead of the extension's |
//! | `cowrie_export` | runs the program `cowrie-export` with the rights of an analyst |
//! | `hosts` | the two tables that the extension serves: Cowrie's and the analysts' |
//! | `recount` | the expected counts, computed without the extension |
//! | `grafana` | a dashboard on the PostgreSQL data source, and the expansion of its SQL |
//! | `prometheus` | a real Prometheus, and promtool |
//! | `python_system` | an installation of the Python system, for importing it |
//! | `releases` | versions of the extension, and the objects of one in a database |
//! | `random` | repeatable randomness |
//! | `scrape` | a server whose metrics are scraped, and the scraper |
//! | `type_files` | a server with files that say types of addresses |
//! | `wait` | waits for a condition, never for a time |

pub mod analyst;
pub mod citus;
pub mod clock;
pub mod cluster;
pub mod contents;
pub mod cowrie_export;
pub mod cymru;
pub mod database;
pub mod distributed_load;
pub mod documentation;
pub mod erasures;
pub mod grafana;
pub mod hostile;
pub mod hosts;
pub mod http;
pub mod installation;
pub mod invariants;
pub mod many_sites;
pub mod networks;
pub mod prometheus;
pub mod python_system;
pub mod random;
pub mod recount;
pub mod releases;
pub mod scrape;
pub mod session;
pub mod torture;
pub mod traffic;
pub mod type_files;
pub mod wait;
pub mod world;

pub use cluster::{Cluster, Options};
pub use database::{Database, DatabaseHandle, database, fresh_database, shared};
pub use session::{Refusal, Session};
pub use wait::wait_until;
