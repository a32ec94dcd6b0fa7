//! JSON of tools: `tools` and `tool_choice` of chat requests, `tool_calls` of messages and deltas.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::error::ApiError;
use crate::api::random;
use crate::tools::{Function, ToolChoice, Toolbox};

/// OpenAI's limits.
const MAX_TOOLS: usize = 128;
const MAX_NAME_BYTES: usize = 64;

/// One entry of `tools`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Tool {
    /// `function`.
    r#type: Option<String>,
    function: Option<FunctionDefinition>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
struct FunctionDefinition {
    name: String,
    description: Option<String>,
    /// JSON schema of the arguments; TGI also calls it `arguments`.
    #[serde(alias = "arguments")]
    parameters: Option<Value>,
}

impl Tool {
    fn function(&self, index: usize) -> Result<Function, ApiError> {
        let refuse = |text: String| Err(ApiError::Tool(format!("`tools[{index}]` {text}")));
        if let Some(other) = self.r#type.as_deref().filter(|kind| *kind != "function") {
            return refuse(format!("is of type `{other}`, but only functions can be called"));
        }
        let Some(FunctionDefinition { name, description, parameters }) = &self.function else {
            return refuse("must have a `function`".into());
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_name) {
            return refuse(format!(
                "must have a name of 1 to {MAX_NAME_BYTES} letters, digits or one of `_-./:`. Given: {name:?}"
            ));
        }
        let parameters = match parameters {
            None | Some(Value::Null) => None,
            Some(Value::Object(schema)) => Some(Value::Object(schema.clone())),
            // TGI's clients may send the schema as a string that holds it.
            Some(Value::String(text)) => serde_json::from_str(text).ok().filter(Value::is_object),
            Some(_) => return refuse("must have a JSON schema, an object, as `parameters`".into()),
        };
        Ok(Function { name: name.clone(), description: description.clone(), parameters })
    }
}

/// What `tool_choice` asks for.
#[derive(Debug, Clone, PartialEq)]
enum Wish {
    /// No calls; the functions are not told.
    None,
    /// Of these functions, or all.
    Any(ToolChoice, Option<Vec<String>>),
}

/// `tools` and what belongs to them.
pub struct ToolFields<'a> {
    pub tools: &'a [Tool],
    pub choice: Option<&'a Value>,
    pub parallel: Option<bool>,
    pub prompt: Option<&'a str>,
}

impl ToolFields<'_> {
    /// The functions that the answer may call; `None` without any.
    ///
    /// # Errors
    /// A definition or a choice that cannot be followed.
    pub fn toolbox(&self) -> Result<Option<Toolbox>, ApiError> {
        let Wish::Any(choice, names) = self.wish()? else { return Ok(None) };
        if self.tools.is_empty() {
            return match choice {
                ToolChoice::Auto => Ok(None),
                _ => Err(ApiError::Tool("`tool_choice` asks for a call, but there are no `tools`".into())),
            };
        }
        if self.tools.len() > MAX_TOOLS {
            let n = self.tools.len();
            return Err(ApiError::Tool(format!("`tools` must be <= {MAX_TOOLS}. Given: {n}")));
        }
        let mut functions: Vec<Function> = Vec::with_capacity(self.tools.len());
        for (index, tool) in self.tools.iter().enumerate() {
            let function = tool.function(index)?;
            if functions.iter().any(|other| other.name == function.name) {
                return Err(ApiError::Tool(format!("`tools` has two functions named {}", function.name)));
            }
            functions.push(function);
        }
        Ok(Some(Toolbox {
            functions: chosen(functions, names)?,
            choice,
            parallel: self.parallel.unwrap_or(true),
            prompt: self.prompt.filter(|prompt| !prompt.is_empty()).map(str::to_string),
        }))
    }

    fn wish(&self) -> Result<Wish, ApiError> {
        let named = |name: &str| Ok(Wish::Any(ToolChoice::Named, Some(vec![name.into()])));
        match self.choice {
            None | Some(Value::Null) => Ok(Wish::Any(ToolChoice::Auto, None)),
            Some(Value::String(word)) => match mode(word) {
                Some(choice) => Ok(Wish::Any(choice, None)),
                None if word == "none" => Ok(Wish::None),
                None => named(word),
            },
            Some(choice) => match (&choice["function"]["name"], &choice["allowed_tools"]) {
                (Value::String(name), _) => named(name),
                (_, Value::Object(_)) => allowed(&choice["allowed_tools"]),
                _ => Err(ApiError::Tool(
                    "`tool_choice` must be auto, none, required or a function's name, as text or as \
                     {\"type\": \"function\", \"function\": {\"name\": ...}}"
                        .into(),
                )),
            },
        }
    }
}

fn mode(word: &str) -> Option<ToolChoice> {
    match word {
        "auto" => Some(ToolChoice::Auto),
        "required" => Some(ToolChoice::Required),
        _ => None,
    }
}

/// OpenAI's `allowed_tools`: a mode over some of the functions.
fn allowed(choice: &Value) -> Result<Wish, ApiError> {
    let choice_mode = choice["mode"].as_str().and_then(mode);
    let names = choice["tools"].as_array().and_then(|tools| {
        tools.iter().map(|tool| tool["function"]["name"].as_str().map(str::to_string)).collect()
    });
    match (choice_mode, names) {
        (Some(choice), Some(names)) => Ok(Wish::Any(choice, Some(names))),
        _ => Err(ApiError::Tool(
            "`tool_choice.allowed_tools` must have a `mode`, auto or required, and a list of `tools`".into(),
        )),
    }
}

/// The functions of these names.
fn chosen(functions: Vec<Function>, names: Option<Vec<String>>) -> Result<Vec<Function>, ApiError> {
    let Some(names) = names else { return Ok(functions) };
    if let Some(unknown) = names.iter().find(|name| functions.iter().all(|one| one.name != **name)) {
        return Err(ApiError::Tool(format!("Tool with name {unknown} not found")));
    }
    let chosen: Vec<Function> = functions.into_iter().filter(|one| names.contains(&one.name)).collect();
    match chosen.is_empty() {
        true => Err(ApiError::Tool("`tool_choice` allows none of the `tools`".into())),
        false => Ok(chosen),
    }
}

/// A call in an answer, or a part of one in a delta.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Call {
    /// In deltas: which of the answer's calls this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// In a call's first delta only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    pub function: CalledFunction,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CalledFunction {
    /// In a call's first delta only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON of an object; in deltas a piece of it.
    pub arguments: String,
}

impl Call {
    /// A call's beginning, its arguments still to come.
    pub fn begin(index: usize, id: String, name: String) -> Self {
        let function = CalledFunction { name: Some(name), arguments: String::new() };
        Self { index: Some(index), id: Some(id), r#type: Some("function"), function }
    }

    /// More arguments.
    pub fn more(index: usize, arguments: String) -> Self {
        let function = CalledFunction { name: None, arguments };
        Self { index: Some(index), id: None, r#type: None, function }
    }

    /// A new call's id, as OpenAI's look.
    pub fn random_id() -> String {
        let mut hex = random::hex();
        hex.truncate(24);
        format!("call_{hex}")
    }
}
