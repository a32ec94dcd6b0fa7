//! Request fields that constrain the answer, as TGI, OpenAI and vLLM name them, and what they mean.
//!
//! Read by the request types of the routes. One request has one constraint: two of them are refused.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::constraint::ConstraintSpec;
use crate::validation::Refusal;

/// TGI's constraint on the output.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Grammar {
    /// JSON that follows a schema: the schema, or a string that holds it.
    #[serde(alias = "json_object")]
    Json { value: Value },
    /// Text that matches a regular expression.
    Regex { value: String },
    /// JSON that follows a schema with a name.
    JsonSchema { value: NamedSchema },
}

impl Grammar {
    /// # Errors
    /// A schema that is neither an object nor a string with JSON.
    pub fn constraint(&self) -> Result<ConstraintSpec, Refusal> {
        match self {
            Self::Json { value: Value::Null | Value::Number(_) | Value::Array(_) } => {
                Err(Refusal("grammar is not supported".into())) // TGI's text
            }
            Self::Json { value } => schema(value),
            Self::Regex { value } => Ok(ConstraintSpec::Regex(value.clone())),
            Self::JsonSchema { value } => value.constraint(),
        }
    }
}

/// A JSON schema as OpenAI's `json_schema` carries it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// Changes nothing.
    #[serde(rename = "name")]
    _name: Option<String>,
    /// When absent, any JSON object will do.
    schema: Option<Value>,
    /// The schema is followed in any case.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

impl NamedSchema {
    fn constraint(&self) -> Result<ConstraintSpec, Refusal> {
        self.schema.as_ref().map_or(Ok(ConstraintSpec::JsonObject), schema)
    }
}

/// A schema is an object, or true or false, or JSON of one in a string.
fn schema(value: &Value) -> Result<ConstraintSpec, Refusal> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(ConstraintSpec::JsonSchema(value.clone())),
        Value::String(text) => serde_json::from_str(text)
            .map(ConstraintSpec::JsonSchema)
            .map_err(|error| Refusal(format!("grammar is not valid: {error}"))),
        _ => Err(Refusal("grammar is not valid: a JSON schema is an object".into())),
    }
}

/// OpenAI's `response_format`; TGI's `{"type", "value"}` is understood too.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`; TGI's `json` and `regex` too.
    r#type: String,
    json_schema: Option<NamedSchema>,
    /// TGI's place for the schema or the regular expression.
    value: Option<Value>,
}

impl ResponseFormat {
    fn constraint(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        match (self.r#type.as_str(), &self.value, &self.json_schema) {
            ("text", ..) => Ok(None),
            ("json_object" | "json", None, _) => Ok(Some(ConstraintSpec::JsonObject)),
            ("json_object" | "json", Some(value), _) => schema(value).map(Some),
            ("regex", Some(Value::String(regex)), _) => Ok(Some(ConstraintSpec::Regex(regex.clone()))),
            ("json_schema", _, Some(named)) => named.constraint().map(Some),
            ("json_schema", Some(value), None) => NamedSchema::deserialize(value)
                .map_err(|error| Refusal(format!("grammar is not valid: {error}")))?
                .constraint()
                .map(Some),
            ("json_schema", None, None) => {
                Err(Refusal("`response_format` of type `json_schema` must have `json_schema`".into()))
            }
            ("regex", ..) => Err(Refusal("`response_format` of type `regex` must have a `value`".into())),
            (other, ..) => Err(Refusal(format!(
                "`response_format.type` must be text, json_object or json_schema. Given: {other}"
            ))),
        }
    }
}

/// vLLM's `structured_outputs` (once called `guided_decoding`): one of its fields is given.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StructuredOutputs {
    /// A JSON schema, or a string that holds it.
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    /// A grammar in Lark's notation, or in EBNF with `::=`.
    grammar: Option<String>,
    /// Any JSON object.
    json_object: Option<bool>,
    /// Not supported.
    structural_tag: Option<Value>,
}

impl StructuredOutputs {
    /// # Errors
    /// More than one constraint, or one that cannot be read.
    pub fn constraint(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        if self.structural_tag.is_some() {
            return Err(Refusal("`structural_tag` is not supported. Leave it out".into()));
        }
        let json = self.json.as_ref().map(schema).transpose()?;
        let all = [
            json,
            self.regex.clone().map(ConstraintSpec::Regex),
            self.choice.clone().map(ConstraintSpec::Choice),
            self.grammar.clone().map(ConstraintSpec::Lark),
            self.json_object.filter(|on| *on).map(|_| ConstraintSpec::JsonObject),
        ];
        only_one(all.into_iter().flatten())
    }
}

/// The fields of both OpenAI routes.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ConstraintFields {
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
    /// vLLM's older name of `structured_outputs.json`.
    guided_json: Option<Value>,
    /// vLLM's older name of `structured_outputs.regex`.
    guided_regex: Option<String>,
    /// vLLM's older name of `structured_outputs.choice`.
    guided_choice: Option<Vec<String>>,
    /// vLLM's older name of `structured_outputs.grammar`.
    guided_grammar: Option<String>,
}

impl ConstraintFields {
    /// What the answer must look like; `None` = anything.
    ///
    /// # Errors
    /// More than one constraint, or one that cannot be read.
    pub fn constraint(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        let guided = StructuredOutputs {
            json: self.guided_json.clone(),
            regex: self.guided_regex.clone(),
            choice: self.guided_choice.clone(),
            grammar: self.guided_grammar.clone(),
            ..StructuredOutputs::default()
        };
        let formats = self.response_format.as_ref().map(ResponseFormat::constraint).transpose()?;
        let structured = self.structured_outputs.as_ref().map(StructuredOutputs::constraint).transpose()?;
        only_one([formats.flatten(), structured.flatten(), guided.constraint()?].into_iter().flatten())
    }
}

/// # Errors
/// More than one constraint.
pub fn only_one(mut all: impl Iterator<Item = ConstraintSpec>) -> Result<Option<ConstraintSpec>, Refusal> {
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Refusal("the output can have only one constraint: leave the others out".into())),
        (one, None) => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: Value) -> Result<Option<ConstraintSpec>, String> {
        let fields = serde_json::from_value::<ConstraintFields>(fields).map_err(|error| error.to_string())?;
        fields.constraint().map_err(|refusal| refusal.0)
    }

    #[test]
    fn every_spelling_of_a_constraint() {
        let schema = || json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let as_schema = || Some(ConstraintSpec::JsonSchema(schema()));
        let text = schema().to_string();
        for (fields, expected) in [
            (json!({}), None),
            (json!({"response_format": null, "guided_json": null}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(ConstraintSpec::JsonObject)),
            (json!({"response_format": {"type": "json_object", "value": schema()}}), as_schema()),
            (json!({"response_format": {"type": "json", "value": text}}), as_schema()),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema(), "strict": true}}}),
                as_schema(),
            ),
            (
                json!({"response_format": {"type": "json_schema", "value": {"name": "n", "schema": schema()}}}),
                as_schema(),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                Some(ConstraintSpec::JsonObject),
            ),
            (
                json!({"response_format": {"type": "regex", "value": "a+"}}),
                Some(ConstraintSpec::Regex("a+".into())),
            ),
            (json!({"guided_json": schema()}), as_schema()),
            (json!({"guided_json": text}), as_schema()),
            (json!({"guided_regex": "a+"}), Some(ConstraintSpec::Regex("a+".into()))),
            (
                json!({"guided_choice": ["a", "b"]}),
                Some(ConstraintSpec::Choice(vec!["a".into(), "b".into()])),
            ),
            (json!({"guided_grammar": "start: \"a\""}), Some(ConstraintSpec::Lark("start: \"a\"".into()))),
            (json!({"structured_outputs": {"json": schema()}}), as_schema()),
            (json!({"structured_outputs": {"json_object": true}}), Some(ConstraintSpec::JsonObject)),
            (json!({"structured_outputs": {"json_object": false}}), None),
        ] {
            assert_eq!(read(fields.clone()), Ok(expected), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (fields, expected) in [
            (json!({"guided_json": 3}), "grammar is not valid: a JSON schema is an object"),
            (json!({"guided_json": "{"}), "grammar is not valid: EOF while parsing an object"),
            (json!({"guided_regex": "a", "guided_choice": ["a"]}), "the output can have only one constraint"),
            (
                json!({"guided_regex": "a", "response_format": {"type": "json_object"}}),
                "the output can have only one constraint",
            ),
            (
                json!({"response_format": {"type": "yaml"}}),
                "`response_format.type` must be text, json_object",
            ),
            (json!({"response_format": {"type": "json_schema"}}), "`response_format` of type `json_schema`"),
            (json!({"response_format": {"type": "regex"}}), "`response_format` of type `regex`"),
            (json!({"structured_outputs": {"structural_tag": {}}}), "`structural_tag` is not supported"),
        ] {
            let refusal = read(fields.clone()).expect_err("it is refused");
            assert!(refusal.starts_with(expected), "{fields}: {refusal}");
        }
    }
}
