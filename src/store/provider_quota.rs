//! Stores how much of the daily quotas this database has used.

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Integer, Text};
use crate::pg::{clock, transaction};
use crate::provider::Provider;
use crate::provider::quota::{self, QuotaReservation};

thread_local! {
    static SPEND: Statement<(Text, Integer, Bigint, Bigint)> = const { Statement::new(
        "quota_spend", include_str!("../../sql/queries/quota/quota_spend.sql")) };
    static UNSPEND: Statement<(Text, Integer, Bigint)> = const { Statement::new(
        "quota_unspend", include_str!("../../sql/queries/quota/quota_unspend.sql")) };
    static LEDGER: Statement<(Integer,), (Text, Integer, Bigint)> = const { Statement::new(
        "quota_ledger", include_str!("../../sql/queries/quota/quota_ledger.sql")) };
}

/// Stores the number of requests that are about to be sent. The stored number is durable after the commit, even if
/// synchronous_commit is off.
pub fn spend(connection: &Connection, provider: Provider, reserved: &QuotaReservation) {
    transaction::commit_durably();
    let arguments = (provider.name(), reserved.day, i64::from(reserved.requests), reserved.spent);
    SPEND.execute(connection, arguments);
}

/// Subtracts requests whose number was stored but which were not sent.
pub fn unspend(connection: &Connection, provider: Provider, day: i32, requests: usize) {
    UNSPEND.execute(connection, (provider.name(), day, requests as i64));
}

/// Copies the numbers of used requests between this database and shared memory. So if one database is dropped, the other
/// databases still know how much of the quota it had used.
pub fn exchange(connection: &Connection) {
    publish(connection);
    for provider in Provider::all().filter(|provider| provider.limits().daily_quota != 0) {
        let (day, spent) = quota::spent(provider);
        if spent > 0 {
            self::spend(connection, provider, &QuotaReservation { day, requests: 0, spent });
        }
    }
}

fn publish(connection: &Connection) {
    let today = cowrie_enrich_engine::quota::day_of(clock::now());
    LEDGER.run(connection, (today,), |rows| {
        for (provider, day, spent) in rows.iter() {
            let provider = provider.and_then(|name| Provider::named(&name));
            if let (Some(provider), Some(day), Some(spent)) = (provider, day, spent) {
                quota::learn(provider, day, spent);
            }
        }
    });
}
