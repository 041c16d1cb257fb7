//! Columns of tables: their types, whether their values are generated, and the lengths that they accept.

use std::ffi::{CStr, c_int};

use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::value::{SqlType, TEXT_LIKE};

unsafe extern "C-unwind" {
    /// Defined in src/backend/executor/spi.c. Declared here without pgrx's guard against ERRORs, because the guard takes many
    /// times as long as the function. The function raises no error for a positive number.
    fn SPI_gettypeid(descriptor: pg_sys::TupleDesc, number: c_int) -> pg_sys::Oid;
}

/// Returns the type of the column with this number. Columns are counted from 1. Returns InvalidOid if there is no such column.
///
/// # Safety
/// The descriptor must be valid.
pub(super) unsafe fn type_of(descriptor: pg_sys::TupleDesc, number: i16) -> pg_sys::Oid {
    // SAFETY: the caller promises that the descriptor is valid. SPI_gettypeid raises an error for some system columns, so it is
    // not called with their numbers, which are negative.
    if number > 0 { unsafe { SPI_gettypeid(descriptor, c_int::from(number)) } } else { pg_sys::InvalidOid }
}

/// A column of a table: its number, counted from 1, and its type.
#[derive(Clone, Copy)]
pub struct Column {
    pub number: i16,
    pub(super) type_oid: pg_sys::Oid,
}

impl Column {
    /// Returns the column with this name, if there is one.
    ///
    /// # Safety
    /// The descriptor must be valid.
    pub(super) unsafe fn named(descriptor: pg_sys::TupleDesc, name: &CStr) -> Option<Column> {
        // SAFETY: the caller promises that the descriptor is valid. If SPI_fnumber returns a positive number, this is the
        // number of a column.
        unsafe {
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            (number > 0).then(|| Column {
                number: number as i16,
                type_oid: pg_sys::SPI_gettypeid(descriptor, number),
            })
        }
    }

    /// Returns true if the values of the column are stored as plain text.
    pub fn is_text_like(self) -> bool {
        TEXT_LIKE.contains(&self.type_oid)
    }

    /// Returns whether its type is `T`.
    pub fn is<T: SqlType>(self) -> bool {
        self.type_oid == T::OID
    }

    /// Returns true if the values of the column can be read as addresses.
    pub fn holds_addresses(self) -> bool {
        self.type_oid == pg_sys::INETOID || self.is_text_like()
    }

    /// Returns true if the values of the column can be read as times.
    pub fn holds_times(self) -> bool {
        matches!(self.type_oid, pg_sys::TIMESTAMPTZOID | pg_sys::TIMESTAMPOID | pg_sys::DATEOID)
    }

    /// Returns true if the values of the column are times without a time zone.
    pub fn holds_local_times(self) -> bool {
        matches!(self.type_oid, pg_sys::TIMESTAMPOID | pg_sys::DATEOID)
    }

    /// Returns true if the type of the column is built into the server. No user owns such a type.
    pub fn has_builtin_type(self) -> bool {
        self.type_oid.to_u32() < pg_sys::FirstNormalObjectId
    }

    /// Returns true if two values of the column's type are equal exactly when their texts are equal. In this case, the server
    /// groups rows by the values themselves, because grouping by their texts takes longer.
    pub fn groups_like_its_text(self) -> bool {
        matches!(
            self.type_oid,
            pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::BOOLOID | pg_sys::DATEOID
        )
    }

    /// Returns whether and how the values of this column are generated, in the given table.
    pub fn generated(self, table: pg_sys::Oid) -> Generated {
        // SAFETY: a system cache lookup of an existing column.
        match unsafe { pg_sys::get_attgenerated(table, self.number) } as u8 {
            0 => Generated::Never,
            b's' => Generated::Stored,
            _ => Generated::Virtual,
        }
    }

    /// Returns how many characters a text-like column of the given table accepts. For varchar this is a maximum, for char an
    /// exact number.
    pub fn length(self, table: pg_sys::Oid) -> Length {
        let (mut type_oid, mut modifier, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
        // SAFETY: a system cache lookup of an existing column.
        unsafe {
            pg_sys::get_atttypetypmodcoll(table, self.number, &mut type_oid, &mut modifier, &mut collation);
        }
        let limit = usize::try_from(modifier - pg_sys::VARHDRSZ as i32);
        match (self.type_oid, limit) {
            (pg_sys::BPCHAROID, Ok(limit)) => Length::Exactly(limit),
            (_, Ok(limit)) => Length::AtMost(limit),
            (_, Err(_)) => Length::Any,
        }
    }
}

/// How a column gets its values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    Never,
    /// After all BEFORE triggers.
    Stored,
    /// Each query that reads the column computes the value. Triggers do not see the value.
    Virtual,
}

/// The length in characters that a text-like column accepts.
#[derive(Clone, Copy)]
pub enum Length {
    Any,
    AtMost(usize),
    Exactly(usize),
}

impl Length {
    pub fn takes(self, characters: usize) -> bool {
        match self {
            Length::Any => true,
            Length::AtMost(limit) => characters <= limit,
            Length::Exactly(limit) => characters == limit,
        }
    }
}

/// Converts a value of a type that [`Column::holds_times`] accepts to timestamptz. Returns `None` for a time that timestamptz
/// cannot hold.
pub(super) fn timestamptz(value: pg_sys::Datum, type_oid: pg_sys::Oid) -> Option<Timestamp> {
    let mut overflow = 0;
    // SAFETY: each conversion function gets a value of its own type, and this type is passed by value. The function reports an
    // overflow without raising an error.
    let converted = unsafe {
        match type_oid {
            pg_sys::TIMESTAMPTZOID => value.value() as i64,
            pg_sys::TIMESTAMPOID => {
                pg_sys::timestamp2timestamptz_opt_overflow(value.value() as i64, &mut overflow)
            }
            pg_sys::DATEOID => pg_sys::date2timestamptz_opt_overflow(value.value() as i32, &mut overflow),
            _ => return None,
        }
    };
    (overflow == 0).then_some(Timestamp::from_micros(converted))
}
