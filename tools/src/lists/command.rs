//! The commands `mmdb-build --types` and `mmdb-build --known-networks`.
//!
//! The output is replaced only after all lists were read and checked. Otherwise it stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::asns::Announced;
use super::compile::{Error as CompileError, compile as compile_lists, sizes, too_many_statements};
use super::known_networks::{AsnList, csv};
use super::list::{List, Source};
use super::sink::line_of_network;
use super::{Content, Error, read};
use crate::mmdb::Settings;
use crate::publish::publish;

/// Arguments of `mmdb-build --types`.
pub struct Types {
    pub output: PathBuf,
    pub sources: Vec<Source>,
    pub asn_database: Option<PathBuf>,
    pub force: bool,
    pub settings: Settings,
}

/// Arguments of `mmdb-build --known-networks`.
pub struct KnownNetworks {
    pub output: PathBuf,
    pub sources: Vec<Source>,
}

/// Reads and compiles lists. `report` gets a line about each list and about the output.
pub fn compile(types: &Types, report: &mut dyn FnMut(&str)) -> Result<(), String> {
    let files = read_all(&types.sources)?;
    let announced = announced(types, &files)?;
    let mut lists: Vec<List> = Vec::new();
    for File { source, content, modified } in files {
        for remark in &content.remarks {
            report(&format!("{}: {remark}", source.name));
        }
        let format = content.format;
        let list = match lists.iter_mut().find(|list| list.name == source.name) {
            Some(list) if list.kind != source.kind => {
                return Err(format!("list {} has two types: {} and {}", list.name, list.kind, source.kind));
            }
            Some(list) => list,
            None => {
                lists.push(List::new(source));
                let Some(list) = lists.last_mut() else { continue };
                list
            }
        };
        list.add(content, source.provider.as_deref(), modified, announced.as_ref())
            .map_err(|error| in_file(source, error))?;
        report(&format!("{}: {format}, {}", source.name, source.file.display()));
    }

    let before = match previous(&types.output) {
        Ok(before) => before,
        Err(_) if types.force => BTreeMap::new(),
        Err(error) => return Err(format!("{}: {error}; --force replaces the file", types.output.display())),
    };
    for list in &lists {
        if !types.force {
            list.check_size(before.get(&list.name).copied())?;
        }
    }
    let compiled =
        compile_lists(&lists, types.settings).map_err(|error| with_place(error, &types.sources))?;
    write(&types.output, &compiled.bytes)?;
    lists.iter().for_each(|list| report(&list.to_string()));
    for name in before.keys().filter(|name| !lists.iter().any(|list| list.name == **name)) {
        report(&format!("{name}: was in the previous file, is not in the new one"));
    }
    let (lists, networks, bytes) = (lists.len(), compiled.networks, compiled.bytes.len());
    report(&format!("{}: {lists} lists, {networks} networks, {bytes} bytes", types.output.display()));
    Ok(())
}

/// Reads lists of ASNs and writes them as CSV.
pub fn known_networks(arguments: &KnownNetworks, report: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut lists: Vec<AsnList> = Vec::new();
    for File { source, content, .. } in read_all(&arguments.sources)? {
        if !content.entries.is_empty() {
            return Err(in_file(source, format!("{} is not a list of ASNs", content.format)));
        }
        report(&format!("{}: {}, {} ASNs", source.name, content.format, content.asns.len()));
        lists.push(AsnList { name: source.name.clone(), kind: source.kind.clone(), asns: content.asns });
    }
    let rows = csv(&lists).map_err(|error| error.to_string())?;
    write(&arguments.output, rows.as_bytes())
}

/// A file that was read, and the argument that names it.
struct File<'a> {
    source: &'a Source,
    content: Content,
    /// Seconds since 1970.
    modified: u64,
}

fn read_all(sources: &[Source]) -> Result<Vec<File<'_>>, String> {
    sources.iter().map(read_source).collect()
}

fn read_source(source: &Source) -> Result<File<'_>, String> {
    let bytes = read_file(&source.file)?;
    let modified = fs::metadata(&source.file)
        .and_then(|metadata| metadata.modified())
        .map_err(|error| format!("could not read {}: {error}", source.file.display()))?;
    let content = read(&bytes).map_err(|error| in_file(source, error))?;
    Ok(File { source, content, modified: seconds(modified) })
}

/// Returns the text of the error, with the file and the line of the error if they can be found.
fn with_place(error: CompileError, sources: &[Source]) -> String {
    if let CompileError::TooManyStatements { list, network } = &error {
        // The list keeps no lines, so this reads its files again.
        for source in sources.iter().filter(|source| source.name == *list) {
            let text = fs::read(&source.file).unwrap_or_default();
            if let Some(line) = line_of_network(&String::from_utf8_lossy(&text), *network) {
                return in_file(source, Error::at(line, too_many_statements(*network)));
            }
        }
    }
    error.to_string()
}

fn in_file(source: &Source, error: impl std::fmt::Display) -> String {
    format!("list {}, {}: {error}", source.name, source.file.display())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    publish(path, bytes).map_err(|error| format!("could not write {}: {error}", path.display()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads the prefixes of the ASNs in these files, if there are any.
fn announced(types: &Types, files: &[File<'_>]) -> Result<Option<Announced>, String> {
    let mut asns: Vec<u32> = files.iter().flat_map(|file| &file.content.asns).map(|asn| asn.number).collect();
    asns.sort_unstable();
    asns.dedup();
    match &types.asn_database {
        Some(path) if !asns.is_empty() => {
            let announced = Announced::read(&read_file(path)?, &asns);
            announced.map(Some).map_err(|error| format!("ASN database {}: {error}", path.display()))
        }
        _ => Ok(None),
    }
}

/// Returns the sizes of the lists in the file that will be replaced.
fn previous(output: &Path) -> Result<BTreeMap<String, u64>, String> {
    match fs::read(output) {
        Ok(bytes) => sizes(&bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(format!("could not read the previous file: {error}")),
    }
}
