//! Answers: what does this mmdb file say about an address?

use crate::address::Address;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;

pub struct Database<S: AsRef<[u8]>> {
    _bytes: S,
    facts: Facts,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub database_type: String,
    pub build_epoch: u64,
    pub ip_version: u16,
    pub node_count: u32,
    pub record_size: u16,
}

/// What a file can answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    Place,
    Network,
    Both,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place<'a> {
    pub country: Option<[u8; 2]>,
    pub country_name: Option<&'a str>,
    pub city: Option<&'a str>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    pub accuracy_radius: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network<'a> {
    pub asn: u32,
    pub organization: Option<&'a str>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MmdbError {}

impl fmt::Display for MmdbError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl Error for MmdbError {}

impl<S: AsRef<[u8]>> Database<S> {
    pub fn open(_bytes: S) -> Result<Self, MmdbError> {
        todo!("follows")
    }

    pub fn verify(&self) -> Result<(), MmdbError> {
        todo!("follows")
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn content(&self) -> Content {
        self.content
    }

    pub fn country(&self, _address: Address) -> Result<Option<[u8; 2]>, MmdbError> {
        todo!("follows")
    }

    pub fn city(&self, _address: Address) -> Result<Option<&str>, MmdbError> {
        todo!("follows")
    }

    pub fn asn(&self, _address: Address) -> Result<Option<u32>, MmdbError> {
        todo!("follows")
    }

    pub fn organization(&self, _address: Address) -> Result<Option<&str>, MmdbError> {
        todo!("follows")
    }

    pub fn place(&self, _address: Address) -> Result<Option<Place<'_>>, MmdbError> {
        todo!("follows")
    }

    pub fn network(&self, _address: Address) -> Result<Option<Network<'_>>, MmdbError> {
        todo!("follows")
    }
}

/// A name from a file, fit for a text column.
pub fn clean_name(_name: &str) -> Cow<'_, str> {
    todo!("follows")
}
