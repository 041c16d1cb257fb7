//! Progress of a procedure.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::shared_state::short_text::ShortText;

crate::zeroable! {
    /// Progress of a procedure call.
    #[derive(Clone, Copy)]
    pub struct ProcedureCall {
        pub database: u32,
        /// Pid of the process that runs the call. 0 before the first call.
        pub pid: i32,
        /// True if the procedure call had not ended when it last reported its progress.
        pub is_open: bool,
        /// True if the procedure call was completed.
        pub is_complete: bool,
        pub phase: ShortText,
        pub batches: i64,
        /// Number of finished items of this phase.
        pub done: i64,
        pub total: i64,
        pub began: Timestamp,
        pub phase_began: Timestamp,
        pub updated: Timestamp,
    }
}
