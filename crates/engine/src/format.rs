//! Answers of a form: whether a schema is one, and whether an answer meets it.
//!
//! Job: the check that no agent's word replaces. Never: reads a file or a network for a schema's references.

use boon::{CompileError, Compiler, SchemaIndex, Schemas, UrlLoader};
use serde_json::Value;

/// The form of an answer whose schema the request holds.
pub(crate) const JSON_SCHEMA: &str = "json_schema";

/// What the schema is called while it is compiled; nothing is there.
const ADDRESS: &str = "longhaul:///schema.json";

/// Bytes of a reason that are told: what a value is not may be as long as the value.
const REASON_BYTES_MAX: usize = 500;

/// A reference that leads out of the schema leads nowhere.
struct Nowhere;

impl UrlLoader for Nowhere {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("{url} is not in the schema").into())
    }
}

fn compile(schema: &Value) -> Result<(Schemas, SchemaIndex), String> {
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.use_loader(Box::new(Nowhere));
    let wrong = |error: CompileError| format!("is no JSON Schema that can be checked: {}", short(&error.to_string()));
    compiler.add_resource(ADDRESS, schema.clone()).map_err(wrong)?;
    let index = compiler.compile(ADDRESS, &mut schemas).map_err(wrong)?;
    Ok((schemas, index))
}

/// Whether `schema` can be checked.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    compile(schema).map(drop)
}

/// Why `answer` does not meet `schema`; none if it does.
pub(crate) fn unmet(schema: &Value, answer: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(answer) {
        Ok(value) => value,
        Err(error) => return Some(format!("it is no JSON: {error}")),
    };
    match compile(schema) {
        Ok((schemas, index)) => schemas.validate(&value, index).err().map(|error| short(&error.to_string())),
        Err(why) => Some(format!("the schema {why}")),
    }
}

fn short(text: &str) -> String {
    let text = text.replace(ADDRESS, "the schema");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let text = lines.join(" ");
    text[..text.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object", "properties": { "n": { "$ref": "#/$defs/n" } }, "required": ["n"],
            "additionalProperties": false, "$defs": { "n": { "type": "integer" } },
        })
    }

    #[test]
    fn an_answer_meets_its_schema_or_it_is_told_why_not() {
        assert_eq!(check(&schema()), Ok(()));
        assert_eq!(unmet(&schema(), r#" {"n": 2} "#), None);
        for (answer, why) in
            [("done", "it is no JSON"), ("", "it is no JSON"), (r#"{"n":"2"}"#, "/n"), (r#"{"n":1}{"n":1}"#, "JSON")]
        {
            let told = unmet(&schema(), answer).unwrap();
            assert!(told.contains(why), "{told}");
        }
        assert!(unmet(&schema(), r#"{"n":1,"m":2}"#).is_some());
    }

    #[test]
    fn a_schema_leads_nowhere_else_and_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("other.json");
        std::fs::write(&file, "{}").unwrap();
        let to_file = json!({ "$ref": format!("file://{}", file.display()) });
        for bad in [to_file, json!({ "$ref": "http://127.0.0.1:1/x" }), json!({ "type": 7 }), json!({ "pattern": "(" })]
        {
            assert!(check(&bad).unwrap_err().starts_with("is no JSON Schema"), "{bad}");
        }
    }
}
