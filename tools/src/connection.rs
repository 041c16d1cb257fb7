//! Connection settings: the connection string, then the environment, then libpq's defaults.

use std::error::Error;

use postgres::{Client, Config, NoTls};

/// Returns the settings of a connection of `cowrie-load`.
pub fn config(dsn: &str) -> Result<Config, Box<dyn Error>> {
    config_of("cowrie-load", dsn)
}

/// Takes values that the connection string lacks from the environment, then from libpq's own defaults. The server shows
/// the name of the program, unless the connection string has an application name.
pub fn config_of(program: &str, dsn: &str) -> Result<Config, Box<dyn Error>> {
    let mut config: Config = dsn.parse().map_err(|error| format!("invalid connection string: {error}"))?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(&variable("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into()));
    }
    if let (true, Some(port)) = (config.get_ports().is_empty(), variable("PGPORT")) {
        config.port(port.parse().map_err(|_| format!("invalid PGPORT: \"{port}\""))?);
    }
    if config.get_user().is_none() {
        let user = variable("PGUSER").or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
        config.user(&user.ok_or("no user name given; set PGUSER, or user= in --dsn")?);
    }
    if let (None, Some(password)) = (config.get_password(), variable("PGPASSWORD")) {
        config.password(password);
    }
    if let (None, Some(database)) = (config.get_dbname(), variable("PGDATABASE")) {
        config.dbname(&database);
    }
    if let (None, Some(options)) = (config.get_options(), variable("PGOPTIONS")) {
        config.options(&options);
    }
    if config.get_application_name().is_none() {
        config.application_name(program);
    }
    Ok(config)
}

/// Keeps stored sessions over a crash of the server. Stronger settings stay as they are.
const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'local', false) \
                       WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// Connects. The time zone of the connection is UTC, because Cowrie's columns have no time zone and Cowrie stores times in
/// UTC. So a time zone that is set for the server, the database or the role changes no stored time. A commit waits until it is on disk, because the state file says
/// that the sessions are stored.
pub fn open(config: &Config) -> Result<Client, postgres::Error> {
    let mut client = config.connect(NoTls)?;
    client.batch_execute("SET timezone = 'UTC'")?;
    client.batch_execute(DURABLE)?;
    Ok(client)
}
