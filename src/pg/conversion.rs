//! Conversions from Rust types to SQL values, and from columns to Rust types.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::jsonb::Container;
use super::row::TupleId;
use super::value::{
    Array, Bigint, Boolean, Bytes, Cidr, ColumnType, Date, Float, Inet, Integer, Jsonb, Name, Oid, Regclass,
    TEXT_LIKE, Text, Tid, Timestamptz, ToSql, Typed, Xid,
};
use super::{array, inet, text};

macro_rules! to_sql {
    ($($rust:ty => $type:ident, |$value:ident| $datum:expr;)*) => {$(
        impl ToSql<$type> for $rust {
            fn to_sql(self) -> Typed<$type> {
                let $value = self;
                Typed::made($datum)
            }
        }
    )*};
}

to_sql! {
    &str => Text, |text| text::write(text);
    &String => Text, |text| text::write(text);
    String => Text, |text| text::write(&text);
    // The text is in the server's encoding.
    &[u8] => Text, |bytes| text::write_bytes(bytes);
    &Vec<u8> => Text, |bytes| text::write_bytes(bytes);
    &str => Name, |name| text::name(name);
    bool => Boolean, |is_so| pg_sys::Datum::from(is_so);
    i32 => Integer, |number| pg_sys::Datum::from(number);
    i64 => Bigint, |number| pg_sys::Datum::from(number);
    &i64 => Bigint, |number| pg_sys::Datum::from(*number);
    f64 => Float, |number| pg_sys::Datum::from(number.to_bits());
    Timestamp => Timestamptz, |timestamp| pg_sys::Datum::from(timestamp.micros());
    i32 => Date, |days| pg_sys::Datum::from(days);
    Address => Inet, |address| inet::write(address);
    &Address => Inet, |address| inet::write(*address);
    Prefix => Cidr, |prefix| inet::write_prefix(prefix);
    &Prefix => Cidr, |prefix| inet::write_prefix(*prefix);
    TupleId => Tid, |tuple_id| tuple_id.write();
    &TupleId => Tid, |tuple_id| tuple_id.write();
    Container<'_> => Jsonb, |container| container.write();
    [u8; 2] => Text, |letters| text::two_capitals(letters);
    pg_sys::Oid => Oid, |oid| pg_sys::Datum::from(oid);
    pg_sys::Oid => Regclass, |oid| pg_sys::Datum::from(oid);
    pg_sys::TransactionId => Xid, |xid| pg_sys::Datum::from(xid);
}

macro_rules! column_types {
    ($($type:ty as $value:ty, $types:expr, |$datum:ident| $read:expr;)*) => {$(
        impl ColumnType for $type {
            type Value<'r> = $value;
            const TYPES: &'static [pg_sys::Oid] = &$types;
            unsafe fn read<'r>($datum: pg_sys::Datum) -> Option<Self::Value<'r>> {
                // SAFETY: as the caller promises.
                #[allow(unused_unsafe)]
                unsafe { $read }
            }
        }
    )*};
}

column_types! {
    Text as String, TEXT_LIKE, |datum| Some(text::from_server(text::bytes(datum)).into_owned());
    Bytes as Vec<u8>, TEXT_LIKE, |datum| Some(text::bytes(datum).to_vec());
    Boolean as bool, [pg_sys::BOOLOID], |datum| Some(datum.value() != 0);
    Integer as i32, [pg_sys::INT4OID], |datum| Some(datum.value() as i32);
    Bigint as i64, [pg_sys::INT8OID], |datum| Some(datum.value() as i64);
    Float as f64, [pg_sys::FLOAT8OID], |datum| Some(f64::from_bits(datum.value() as u64));
    Timestamptz as Timestamp, [pg_sys::TIMESTAMPTZOID], |datum| Some(Timestamp::from_micros(datum.value() as i64));
    Inet as Address, [pg_sys::INETOID], |datum| inet::read(datum).map(|inet| inet.address);
    Array<Text> as Vec<Option<String>>, [pg_sys::TEXTARRAYOID], |datum| {
        let elements = array::elements::<Text>(datum).into_iter();
        Some(elements.map(|element| element.map(|text| text::from_server(text::bytes(text)).into_owned())).collect())
    };
    Tid as TupleId, [pg_sys::TIDOID], |datum| Some(TupleId::read(datum));
    Jsonb as Container<'r>, [pg_sys::JSONBOID], |datum| Some(Container::read(datum));
    Oid as pg_sys::Oid, [pg_sys::OIDOID, pg_sys::REGCLASSOID], |datum| Some(pg_sys::Oid::from(datum.value() as u32));
}
