//! Chat messages as templates see them, calls of functions included. Made by the chat routes and by `tools`.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of the assistant: the functions that it called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a call's result: the call's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// Whether it is what a called function gave back.
    pub fn is_result(&self) -> bool {
        self.role == "tool"
    }
}

/// A call of an earlier turn.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON of an object, as the model wrote it.
    pub arguments: String,
}

impl Serialize for ToolCall {
    /// As transformers hands it to templates: the arguments are an object, not a string that holds one.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let arguments: Value =
            serde_json::from_str(&self.arguments).unwrap_or_else(|_| json!(self.arguments));
        let mut call = serializer.serialize_struct("ToolCall", 3)?;
        call.serialize_field("id", &self.id)?;
        call.serialize_field("type", "function")?;
        call.serialize_field("function", &json!({"name": self.name, "arguments": arguments}))?;
        call.end()
    }
}
