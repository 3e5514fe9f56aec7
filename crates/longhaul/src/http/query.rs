//! Query strings and cursors, strictly: an unknown parameter is refused by name.

use axum::extract::{FromRequestParts, Path};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use longhaul_api::{ErrorCode, Problem};
use longhaul_model::{ProjectId, RunId, RunKey, Seq, limits};

use super::reply::Failure;

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query string whose parameters must be among `known`. `token` belongs to the door, which takes it out.
    pub(super) fn parse(raw: Option<&str>, known: &[&str]) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        for pair in pairs_of(raw) {
            let (name, value) = pair?;
            if !known.contains(&name.as_str()) {
                return Err(Problem::new(ErrorCode::UnknownField, format!("there is no parameter {name:?}"))
                    .param(name)
                    .fact("known", known.to_vec())
                    .into());
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The same of a protocol that ignores parameters it does not know.
    pub(super) fn parse_some(raw: Option<&str>, known: &[&str]) -> Result<Self, Failure> {
        let mut pairs = pairs_of(raw).collect::<Result<Vec<_>, _>>()?;
        pairs.retain(|(name, _)| known.contains(&name.as_str()));
        Ok(Self(pairs))
    }

    /// The only value of a parameter.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut found = None;
        for (_, value) in self.0.iter().filter(|(n, _)| n == name) {
            if found.replace(value.as_str()).is_some() {
                return Err(Problem::invalid(name, format!("{name} is given twice")).into());
            }
        }
        Ok(found)
    }

    /// Every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A whole number within bounds, both inclusive.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (min..=max).contains(&number) => Ok(Some(number)),
            _ => {
                let text = format!("{name} must be a whole number from {min} to {max}");
                Err(Problem::invalid(name, text).fact("min", min).fact("max", max).into())
            }
        }
    }

    /// How long to wait for an end.
    pub(super) fn wait(&self) -> Result<std::time::Duration, Failure> {
        Ok(std::time::Duration::from_millis(self.number("wait_ms", 0, limits::WAIT_MS_MAX)?.unwrap_or(0)))
    }

    /// The project.
    pub(super) fn project(&self) -> Result<Option<ProjectId>, Failure> {
        self.one("project")?
            .map(|text| ProjectId::parse(text).map_err(|e| Problem::invalid("project", e.to_string()).into()))
            .transpose()
    }

    /// The run that a path names.
    pub(super) fn key(&self, id: &str) -> Result<RunKey, Failure> {
        let run = RunId::parse(id).map_err(|e| Problem::invalid("id", e.to_string()))?;
        Ok(RunKey { project: self.project()?.unwrap_or_else(ProjectId::default_project), run })
    }

    /// The cursor: `Last-Event-ID` beats `after`; nothing is the beginning.
    pub(super) fn cursor(&self, headers: &HeaderMap) -> Result<Seq, Failure> {
        let header = headers.get("last-event-id");
        let (name, text) = match header {
            Some(value) if !value.is_empty() => ("Last-Event-ID", value.to_str().unwrap_or("?")),
            _ => match self.one("after")? {
                Some(text) => ("after", text),
                None => return Ok(Seq::ZERO),
            },
        };
        Seq::parse(text).map_err(|text| {
            let message = format!("{name} must be a plain decimal number, {text:?} is not");
            Problem::new(ErrorCode::InvalidCursor, message).param(name).into()
        })
    }
}

/// The decoded parameters of a query string.
fn pairs_of(raw: Option<&str>) -> impl Iterator<Item = Result<(String, String), Failure>> {
    raw.unwrap_or_default().split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

/// The decoded values of a parameter in a query string, as far as it is well formed.
pub(super) fn values(raw: &str, name: &str) -> Vec<String> {
    let pairs = raw.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    pairs.filter(|(n, _)| decode(n).is_ok_and(|n| n == name)).filter_map(|(_, value)| decode(value).ok()).collect()
}

/// A query string without a parameter.
pub(super) fn without(raw: &str, name: &str) -> String {
    let other = |part: &&str| !decode(part.split_once('=').map_or(*part, |(n, _)| n)).is_ok_and(|n| n == name);
    raw.split('&').filter(other).collect::<Vec<_>>().join("&")
}

/// The run id in a path, as it was sent; [`Query::key`] checks it.
pub(super) struct PathId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("id", "the id in the path is not UTF-8"))?;
        Ok(Self(id))
    }
}

fn decode(text: &str) -> Result<String, Failure> {
    let bad = || Failure::from(Problem::invalid("query", "the query string is not well formed"));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad);
                let (high, low) = (digit()?, digit()?);
                out.push((high * 16 + low) as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_parameter_is_taken_out() {
        let raw = "client=eventsource&tok%65n=a%20b&after=1";
        assert_eq!(values(raw, "token"), ["a b"]);
        assert_eq!(without(raw, "token"), "client=eventsource&after=1");
        assert_eq!(without("token=x", "token"), "");
    }

    #[test]
    fn parameters_are_decoded_and_known() {
        let query = Query::parse(Some("tag=a%3Db&tag=c+d&limit=5"), &["tag", "limit"]).unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a=b", "c d"]);
        assert_eq!(query.number("limit", 1, 10).unwrap(), Some(5));
        assert!(query.number("limit", 6, 10).is_err());
        assert!(query.one("tag").is_err());
        for bad in ["nope=1", "tag=%2", "tag=%zz", "tag=%ff"] {
            assert!(Query::parse(Some(bad), &["tag"]).is_err(), "{bad}");
        }
    }
}
