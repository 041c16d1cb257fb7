//! One request to Team Cymru: from claimed jobs to a task for the network, and from its reply to the inventories.

use std::collections::{BTreeMap, BTreeSet};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::cymru::{self, Answer, Failure, Reply};
use cowrie_enrich_engine::random;

use crate::enrichment::{self, country_text};
use crate::guc::{self, Lifetimes, Limits};
use crate::offline::{self, Patience};
use crate::pg::spi::Connection;
use crate::pg::{clock, snapshot};
use crate::politeness::{self, Count, Permit, Provider, Verdict};
use crate::store::Home;
use crate::store::answers::{self, Kept, Waiting};
use crate::store::enrich::{self, Tally};
use crate::store::networks::{self, Networks, Said};
use crate::store::queue::{self, Claimed, Failed, Lease};
use crate::store::snapshots::{self, Placed};
use crate::telemetry::{self, Counter};

/// Jobs on their way to the provider, each with the address that is asked about.
pub struct Flight {
    questions: Vec<(Prefix, Address)>,
    pub permit: Option<Permit>,
}

/// Jobs that came back, and with what.
pub struct Landing {
    questions: Vec<(Prefix, Option<Address>)>,
    /// None where earlier answers serve.
    reply: Option<Reply>,
    /// When it landed, microseconds since 2000.
    pub since: i64,
    pub not_before: i64,
    /// What earlier transactions wrote: addresses up to this one, and the jobs among theirs with sessions that were held.
    written_to: Option<Address>,
    held: BTreeSet<Prefix>,
}

impl Flight {
    pub fn of(claimed: &[Claimed]) -> Flight {
        let asked = claimed.iter().filter_map(|claimed| claimed.ask.map(|ask| (claimed.question, ask)));
        // The queue has none; the last door all the same.
        let public = asked.filter(|(_, address)| bogon::reason(*address).is_none());
        Flight { questions: public.collect(), permit: None }
    }

    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    pub fn questions(&self) -> Vec<Prefix> {
        self.questions.iter().map(|(question, _)| *question).collect()
    }

    /// What the network is to do.
    pub fn task(&self, settings: cymru::Settings) -> cymru::Batch {
        politeness::count(Provider::Cymru, Count::Requests, 1);
        politeness::count(Provider::Cymru, Count::Questions, self.questions.len() as u64);
        cymru::Batch { settings, addresses: self.questions.iter().map(|(_, address)| *address).collect() }
    }

    /// The reply is there: the provider is judged by it, and what it did wrong is counted.
    pub fn landed(mut self, reply: Reply, limits: &Limits) -> Landing {
        if let Some(permit) = self.permit.take() {
            judge(permit, &reply, self.questions.len(), limits);
        }
        let now = clock::now();
        Landing {
            questions: self.questions.into_iter().map(|(question, ask)| (question, Some(ask))).collect(),
            ..Landing::at(now, Some(reply))
        }
    }
}

/// Counts a reply and judges the provider by it: one that answered anything is up.
pub fn judge(permit: Permit, reply: &Reply, asked: usize, limits: &Limits) {
    let provider = Provider::Cymru;
    politeness::count(provider, Count::Foreign, reply.anomalies.foreign);
    politeness::count(provider, Count::Malformed, reply.anomalies.malformed);
    politeness::count(provider, Count::Oversized, reply.anomalies.oversized);
    politeness::count(provider, Count::Unanswered, asked.saturating_sub(reply.answers.len()) as u64);
    let refused = reply.answers.values().filter(|answer| matches!(answer, Answer::Refused(_))).count();
    politeness::count(provider, Count::Refused, refused as u64);
    if let Some(failure) = &reply.failure {
        politeness::count(provider, kind_of(failure), 1);
        if *failure != Failure::Cancelled {
            telemetry::error("Team Cymru gave no complete answer", &failure.to_string());
        }
    }
    match &reply.failure {
        _ if !reply.answers.is_empty() => permit.give_back(&Verdict::Answered, limits),
        Some(Failure::Cancelled) => permit.give_back(&Verdict::Unknown, limits),
        Some(failure) => permit.give_back(&Verdict::Failed(&failure.to_string()), limits),
        None => permit.give_back(&Verdict::Failed("an answer without a row that makes sense"), limits),
    }
}

fn kind_of(failure: &Failure) -> Count {
    match failure {
        Failure::Resolve(_) | Failure::Connect(_) | Failure::ConnectTimeout => Count::Unreachable,
        Failure::Silent => Count::Silent,
        Failure::Stalled | Failure::TooSlow => Count::TimedOut,
        Failure::Cut => Count::CutOff,
        Failure::TooLarge => Count::TooLarge,
        Failure::Io(_) | Failure::Cancelled => Count::Failed,
    }
}

/// What one transaction wrote.
pub struct Written {
    /// Whether the landing is done with; else another transaction writes more.
    is_all: bool,
    last: Option<Address>,
    held: BTreeSet<Prefix>,
    values: u64,
    absent: u64,
    shared: u64,
    dead: u64,
}

impl Landing {
    /// Jobs that earlier answers serve.
    pub fn of_known(questions: Vec<Prefix>) -> Landing {
        let now = clock::now();
        Landing {
            questions: questions.into_iter().map(|question| (question, None)).collect(),
            ..Landing::at(now, None)
        }
    }

    fn at(now: i64, reply: Option<Reply>) -> Landing {
        let (questions, held) = (Vec::new(), BTreeSet::new());
        Landing { questions, reply, since: now, not_before: now, written_to: None, held }
    }

    /// What a transaction wrote that has committed now. Answers whether the landing is done with.
    pub fn advance(&mut self, written: Written) -> bool {
        let count = |what, amount| politeness::count(Provider::Cymru, what, amount);
        count(Count::Values, written.values);
        count(Count::Absent, written.absent);
        count(Count::Shared, written.shared);
        count(Count::DeadLetters, written.dead);
        self.written_to = written.last;
        self.held = written.held;
        written.is_all
    }

    fn answer(&self, asked: Address) -> Option<&Answer> {
        self.reply.as_ref().and_then(|reply| reply.answers.get(&asked))
    }
}

/// One transaction: the answers are kept, the inventories written in the order of locks, sessions completed, jobs ended.
///
/// Statistics are folded by the transaction after this one: folding locks existing networks first, and here addresses
/// are locked already.
pub fn write_down(
    home: Home,
    connection: &Connection,
    landing: &Landing,
    lease: Lease,
    lifetimes: Lifetimes,
) -> Written {
    let all: Vec<Prefix> = landing.questions.iter().map(|(question, _)| *question).collect();
    let held: BTreeSet<Prefix> = queue::hold(connection, Provider::Cymru, &all, lease).into_iter().collect();
    let mine = || landing.questions.iter().filter(|(question, _)| held.contains(question));

    if landing.written_to.is_none() {
        keep_answers(connection, landing, mine(), lifetimes);
    }
    let failed: Vec<Failed> =
        mine().filter_map(|(question, asked)| failure(landing, *question, *asked)).collect();
    let failed_questions: BTreeSet<Prefix> = failed.iter().map(|failed| failed.question).collect();
    let answered: Vec<Prefix> = held.iter().copied().filter(|q| !failed_questions.contains(q)).collect();

    let mut written = write_waiting(home, connection, landing, &answered, lifetimes);
    if written.is_all {
        written.dead = bury(connection, &failed);
    }
    written
}

fn keep_answers<'a>(
    connection: &Connection,
    landing: &Landing,
    questions: impl Iterator<Item = &'a (Prefix, Option<Address>)>,
    lifetimes: Lifetimes,
) {
    let mut kept = BTreeMap::new();
    for (question, asked) in questions {
        let Some(answer) = asked.and_then(|asked| landing.answer(asked)) else { continue };
        let (covers, row) = match answer {
            Answer::Route(route) => {
                let smaller = route.prefix.filter(|prefix| prefix.length() > question.length());
                let covers = smaller.unwrap_or(*question);
                let row = Kept {
                    covers,
                    asn: Some(i64::from(route.asn)),
                    country: route.network_country().map(country_text),
                    registry: route.registry.map(|registry| registry.name()),
                    document: enrichment::cymru_document(route, landing.since),
                };
                (covers, row)
            }
            Answer::Absent => {
                let retry_after = landing.since + i64::from(lifetimes.absent) * 1_000_000;
                let document = enrichment::cymru_absent(landing.since, retry_after);
                (*question, Kept { covers: *question, asn: None, country: None, registry: None, document })
            }
            Answer::Refused(_) => continue,
        };
        kept.insert(covers, row);
    }
    let kept: Vec<Kept> = kept.into_values().collect();
    answers::keep(connection, &kept, landing.since);
}

/// Why a job has no answer, if it has none.
fn failure(landing: &Landing, question: Prefix, asked: Option<Address>) -> Option<Failed> {
    let (asked, reply) = (asked?, landing.reply.as_ref()?);
    let (error, counts) = match (reply.answers.get(&asked), &reply.failure) {
        (Some(Answer::Refused(words)), _) => (format!("refused: {words}"), true),
        (Some(_), _) => return None,
        // A provider that is down for everybody is no fault of the question's.
        (None, Some(failure)) => (failure.to_string(), reply.spoke && *failure != Failure::Cancelled),
        (None, None) => ("the answer has no row for it".to_owned(), true),
    };
    Some(Failed { question, error, counts })
}

/// Writes what is known now of addresses that wait for these questions: some at a time, the jobs are ended with the last.
fn write_waiting(
    home: Home,
    connection: &Connection,
    landing: &Landing,
    answered: &[Prefix],
    lifetimes: Lifetimes,
) -> Written {
    answers::waited_for(connection, answered, lifetimes, landing.written_to, |waiting| {
        write_inventories(home, connection, waiting);
        let placed: Vec<Placed> = waiting.iter().filter_map(placed).collect();
        let held_addresses = snapshots::complete(connection, &placed);

        let done = || waiting.iter().filter(|w| !held_addresses.contains(&w.address));
        let addresses: Vec<Address> = done().map(|w| w.address).collect();
        queue::done(connection, Provider::Cymru, &addresses);

        let mut held = landing.held.clone();
        held.extend(waiting.iter().filter(|w| held_addresses.contains(&w.address)).map(|w| w.question));
        let is_all = waiting.len() < answers::MOST_AT_ONCE;
        if is_all {
            let held: Vec<Prefix> = held.iter().copied().collect();
            queue::settle(connection, Provider::Cymru, answered, &held);
        }
        let (values, absent): (Vec<_>, Vec<_>) = done().partition(|w| w.asn.is_some());
        telemetry::add(Counter::CymruHits, values.len() as i64);
        let asked: BTreeSet<Address> = landing.questions.iter().filter_map(|(_, asked)| *asked).collect();
        Written {
            is_all,
            last: waiting.last().map(|w| w.address),
            held,
            values: values.len() as u64,
            absent: absent.len() as u64,
            shared: done().filter(|w| !asked.contains(&w.address)).count() as u64,
            dead: 0,
        }
    })
}

fn placed(waiting: &Waiting) -> Option<Placed> {
    Some(Placed {
        address: waiting.address,
        asn: waiting.asn?,
        country: waiting.country.clone(),
        document: waiting.document,
    })
}

/// Networks, then new addresses, then existing ones, each in key order.
fn write_inventories(home: Home, connection: &Connection, waiting: &[Waiting]) {
    if waiting.is_empty() {
        return;
    }
    let mut said = Networks::new();
    for waiting in waiting {
        let Some(asn) = waiting.asn else { continue };
        said.entry(asn).or_default().merge(Said {
            name: waiting.name.clone(),
            country: waiting.country.clone(),
            registry: waiting.registry.clone(),
            ..Said::default()
        });
    }
    offline::with(Patience::None, |databases| {
        // A lookup may have been requested for an address that has no row yet.
        let latest = snapshot::Latest::take();
        let addresses = waiting.iter().map(|waiting| (waiting.address, Tally::default()));
        let mut plan = enrich::plan(home, addresses, databases, latest.raw(), false);
        drop(latest);
        plan.due.clear();
        let mut all = said.clone();
        for (asn, of_file) in enrich::networks_of(&plan, databases) {
            all.entry(asn).or_insert(of_file);
        }
        let source = |asn| if said.contains_key(&asn) { "cymru" } else { "maxmind" };
        networks::create_said(connection, &all, source);
        networks::refine(connection, &said, "cymru");
        // Their answer is at hand.
        enrich::create_addresses(connection, databases, &plan.missing, false);
    });
    let answers: Vec<_> = waiting.iter().map(|w| (w.address, w.asn, w.document)).collect();
    enrich::write_answers(connection, "cymru", &answers);
}

/// Jobs without an answer; answers how many addresses became dead letters.
fn bury(connection: &Connection, failed: &[Failed]) -> u64 {
    let patience = queue::Patience {
        base_seconds: guc::retry_base().as_secs_f64(),
        max_attempts: guc::max_attempts(),
        last_success: politeness::last_success(Provider::Cymru),
        random: random::unit(),
    };
    let dead = queue::fail(connection, Provider::Cymru, failed, &patience);
    let now = clock::now();
    let documents: Vec<_> = dead
        .iter()
        .map(|(address, error)| (*address, None, enrichment::failed(Provider::Cymru.name(), now, error)))
        .collect();
    enrich::write_answers(connection, Provider::Cymru.name(), &documents);
    dead.len() as u64
}
