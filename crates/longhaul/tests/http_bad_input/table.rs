//! Rows of the table: a request, and the refusal that it must get.

use serde_json::{Value, json};

use super::support::wire;

/// A request and its refusal.
pub struct Row {
    pub what: String,
    pub request: Vec<u8>,
    pub status: u16,
    pub code: &'static str,
    pub param: Option<String>,
    /// Facts beside the common members.
    pub facts: Vec<(&'static str, Value)>,
}

/// Rows being made.
#[derive(Default)]
pub struct Table(pub Vec<Row>);

impl Table {
    pub fn raw(
        &mut self,
        what: &str,
        request: Vec<u8>,
        status: u16,
        code: &'static str,
        param: Option<&str>,
    ) -> &mut Row {
        let param = param.map(str::to_owned);
        self.0.push(Row { what: what.to_owned(), request, status, code, param, facts: vec![] });
        self.0.last_mut().unwrap()
    }

    pub fn get(&mut self, target: &str, status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        self.with("GET", target, &[], b"", status, code, param)
    }

    #[expect(clippy::too_many_arguments, reason = "a row is a row")]
    pub fn with(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &[u8])],
        body: &[u8],
        status: u16,
        code: &'static str,
        param: Option<&str>,
    ) -> &mut Row {
        let mut all: Vec<(&str, &[u8])> = vec![("host", b"localhost")];
        all.extend(headers);
        let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
        let shown_headers: Vec<_> = headers.iter().map(|(n, v)| (n, String::from_utf8_lossy(v))).collect();
        let target_shown: String = target.chars().take(100).collect();
        let what = format!("{method} {target_shown} {shown_headers:?} {shown}");
        self.raw(&what, wire::request(method, target, &all, body), status, code, param)
    }

    pub fn post(
        &mut self,
        target: &str,
        body: &[u8],
        status: u16,
        code: &'static str,
        param: Option<&str>,
    ) -> &mut Row {
        self.with("POST", target, &[], body, status, code, param)
    }

    /// A field of a run request with a value that is not allowed.
    pub fn field(&mut self, body: Value, code: &'static str, param: &str) -> &mut Row {
        self.post("/v1/runs", body.to_string().as_bytes(), 400, code, Some(param))
    }

    /// A chat request with a value that is not allowed.
    pub fn chat(&mut self, body: Value, status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        self.post("/v1/chat/completions", body.to_string().as_bytes(), status, code, param)
    }
}

impl Row {
    pub fn fact(&mut self, name: &'static str, value: Value) -> &mut Self {
        self.facts.push((name, value));
        self
    }
}

pub fn demo(more: Value) -> Value {
    let mut body = json!({ "harness": "demo", "prompt": "hi" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn exec(more: Value) -> Value {
    let mut body = json!({ "command": "/bin/true" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn talk(more: Value) -> Value {
    let mut body = json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
