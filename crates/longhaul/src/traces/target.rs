//! Where traces go, from the configuration and from the variables that all programs of OpenTelemetry know.
//!
//! Never: shows a header.

use std::fmt;

use ureq::http::{HeaderName, HeaderValue};

use crate::config::{Config, Source, is_plain_url};

/// The path below an endpoint for all signals. Source: OpenTelemetry, "Endpoint URLs for OTLP/HTTP".
const PATH: &str = "/v1/traces";

/// The name of the service where nothing says another.
const SERVICE_DEFAULT: &str = "longhaul";

/// A collector.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    service: String,
}

impl fmt::Debug for Target {
    /// Without the values of its headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("url", &self.url).field("service", &self.service).finish_non_exhaustive()
    }
}

/// Why nothing is exported although something asks for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_text}: {why}")]
pub struct Mistake {
    source_text: String,
    why: String,
    /// Whether it is in a variable. Those are set for other programs too and refuse no start.
    pub in_variable: bool,
}

impl Mistake {
    fn of(source: &Source, why: impl Into<String>) -> Self {
        let in_variable = matches!(source, Source::Variable(_));
        Self { source_text: source.to_string(), why: why.into(), in_variable }
    }
}

impl Target {
    /// The collector that a configuration names, if it names one.
    ///
    /// # Errors
    /// [`Mistake`], the first one, without any value that may be secret.
    pub fn of(config: &Config) -> Result<Option<Self>, Mistake> {
        let get = |name| config.get(name).and_then(|(value, source)| Some((value.as_text()?, source)));
        match get("telemetry.traces") {
            None | Some(("otlp", _)) => {}
            Some(("none", _)) => return Ok(None),
            Some((_, source)) => return Err(Mistake::of(&source, "traces can be exported by otlp, or by none")),
        }
        let (url, source) = match (get("telemetry.traces_endpoint"), get("telemetry.endpoint")) {
            (Some((url, source)), _) => (url.to_owned(), source),
            (None, Some((url, source))) => (format!("{}{PATH}", url.trim_end_matches('/')), source),
            (None, None) => return Ok(None),
        };
        if !is_plain_url(&url) {
            let why = "must be an address as http://127.0.0.1:4318, without user, query and fragment";
            return Err(Mistake::of(&source, why));
        }
        match get("telemetry.protocol") {
            None | Some(("http/json" | "http/protobuf", _)) => {}
            Some((_, source)) => return Err(Mistake::of(&source, "OTLP is spoken over HTTP only: http/json")),
        }
        let headers = match get("telemetry.headers") {
            None => Vec::new(),
            Some((text, source)) => headers(text).map_err(|why| Mistake::of(&source, why))?,
        };
        let service = get("telemetry.service_name").map_or(SERVICE_DEFAULT, |(name, _)| name).to_owned();
        Ok(Some(Self { url, headers, service }))
    }

    /// Where spans are posted to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What they are posted with. Secret.
    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// What they say of us.
    pub(super) fn service(&self) -> &str {
        &self.service
    }
}

/// `NAME=VALUE,NAME=VALUE`, values with percent signs decoded. Source: OpenTelemetry, "Specifying headers via environment
/// variables".
fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .enumerate()
        .map(|(at, part)| header(part).ok_or_else(|| format!("header {} is not NAME=VALUE", at + 1)))
        .collect()
}

fn header(part: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = part.split_once('=')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let mut value = HeaderValue::from_bytes(&decoded(value.trim())?).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&'static str, &'static str)]) -> Result<Option<Target>, Mistake> {
        let config =
            Config::load(None, &[], |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value));
        Target::of(&config.unwrap())
    }

    #[test]
    fn the_variables_of_opentelemetry_say_where() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let url = |variables: &[(&'static str, &'static str)]| of(variables).unwrap().map(|target| target.url);
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[(ALL, "http://127.0.0.1:4318/")]).as_deref(), Some("http://127.0.0.1:4318/v1/traces"));
        let both = [(ALL, "http://127.0.0.1:4318"), (OWN, "https://example.org/own")];
        assert_eq!(url(&both).as_deref(), Some("https://example.org/own"));
        assert_eq!(url(&[(ALL, "http://127.0.0.1:4318"), ("OTEL_TRACES_EXPORTER", "none")]), None);
        for wrong in [
            [(ALL, "127.0.0.1:4317"), ("OTEL_SERVICE_NAME", "n")],
            [(ALL, "http://me:pass@127.0.0.1"), ("OTEL_SERVICE_NAME", "n")],
            [(ALL, "http://127.0.0.1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            [(ALL, "http://127.0.0.1"), ("OTEL_TRACES_EXPORTER", "console")],
            [(ALL, "http://127.0.0.1"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,s3cret")],
            [(ALL, "http://127.0.0.1"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%0a")],
            [(ALL, "http://127.0.0.1"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%4")],
        ] {
            let mistake = of(&wrong).unwrap_err();
            let text = format!("{mistake} {mistake:?}");
            assert!(mistake.in_variable && !text.contains("pass") && !text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn headers_are_decoded_and_shown_nowhere() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret, x-team = red "),
            ("OTEL_SERVICE_NAME", "mine"),
        ];
        let target = of(&variables).unwrap().unwrap();
        let told: Vec<_> = target.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(told, [("authorization", "Bearer s3cret"), ("x-team", "red")]);
        assert!(!format!("{target:?}").contains("s3cret"));
        assert_eq!(target.service(), "mine");
    }
}
