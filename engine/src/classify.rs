//! Answers: what kind of network does an organisation's name suggest?

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NetworkType {
    Hosting,
    Isp,
    Education,
    Government,
    Unknown,
}

impl NetworkType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosting => "HOSTING",
            Self::Isp => "ISP",
            Self::Education => "EDUCATION",
            Self::Government => "GOVERNMENT",
            Self::Unknown => "UNKNOWN",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Hosting,
            Self::Isp,
            Self::Education,
            Self::Government,
            Self::Unknown,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

pub fn by_name(_organization: &str) -> NetworkType {
    todo!("rules follow in the next commit")
}
