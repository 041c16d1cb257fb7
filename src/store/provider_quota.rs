//! What this database spent of the daily quotas.

use pgrx::pg_sys;

use crate::pg::spi::{Connection, Statement};
use crate::pg::{clock, text, transaction};
use crate::provider::Provider;
use crate::provider::quota::{self, Reserved};

thread_local! {
    static SPEND: Statement = const { Statement::new(
        "quota_spend", include_str!("../../sql/queries/quota/quota_spend.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT8OID]) };
    static UNSPEND: Statement = const { Statement::new(
        "quota_unspend", include_str!("../../sql/queries/quota/quota_unspend.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::INT8OID]) };
    static LEDGER: Statement = const { Statement::new(
        "quota_ledger", include_str!("../../sql/queries/quota/quota_ledger.sql"), &[pg_sys::INT4OID]) };
}

/// Writes down what is about to be sent. Once the transaction has committed it is durable, whatever the operator thinks
/// of other transactions.
pub fn spend(connection: &Connection, provider: Provider, reserved: &Reserved) {
    transaction::commit_durably();
    let arguments = [
        Some(text::write(provider.name())),
        Some(pg_sys::Datum::from(reserved.day)),
        Some(pg_sys::Datum::from(i64::from(reserved.requests))),
        Some(pg_sys::Datum::from(reserved.spent)),
    ];
    SPEND.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Takes back what was written down and not sent.
pub fn unspend(connection: &Connection, provider: Provider, day: i32, requests: usize) {
    let arguments = [
        Some(text::write(provider.name())),
        Some(pg_sys::Datum::from(day)),
        Some(pg_sys::Datum::from(requests as i64)),
    ];
    UNSPEND.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Tells everybody what this database knows of spent quotas, and writes down what others know: whichever database goes
/// away, what it spent is known to the others.
pub fn exchange(connection: &Connection) {
    publish(connection);
    for provider in Provider::all().filter(|provider| provider.limits().daily_quota != 0) {
        let (day, spent) = quota::spent(provider);
        if spent > 0 {
            self::spend(connection, provider, &Reserved { day, requests: 0, spent });
        }
    }
}

fn publish(connection: &Connection) {
    LEDGER.with(|statement| {
        let today = pg_sys::Datum::from(cowrie_enrich_engine::quota::day_of(clock::now()));
        connection.run(statement, &[Some(today)], |rows| {
            for row in 0..rows.count {
                let provider = rows.text(row, 1).and_then(|name| Provider::named(&name));
                let day = rows.bigint(row, 2).and_then(|day| i32::try_from(day).ok());
                if let (Some(provider), Some(day), Some(spent)) = (provider, day, rows.bigint(row, 3)) {
                    quota::learn(provider, day, spent);
                }
            }
        });
    });
}
