//! Progress of a procedure.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::shared_state::short_text::ShortText;

crate::zeroable! {
    /// Progress of a procedure call.
    #[derive(Clone, Copy)]
    pub struct ProcedureCall {
        pub database: u32,
        /// Process that runs the call; 0 before the first call.
        pub pid: i32,
        /// The call has not ended, according to the last report.
        pub is_open: bool,
        /// The call reached its end.
        pub is_complete: bool,
        pub phase: ShortText,
        pub batches: i64,
        /// Items of this phase that are done.
        pub done: i64,
        pub total: i64,
        pub began: Timestamp,
        pub phase_began: Timestamp,
        pub updated: Timestamp,
    }
}
