//! POST /v1/chat/completions: messages through the model's template, one sequence for each of `n` choices.

use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};

use super::called::AnswerReader;
use super::chat_types::{Answer, ChatCompletion, ChatRequest, Choice, Chunk, ChunkChoice, Logprobs};
use super::job::{self, Answers, Choices, Route};
use super::stream::Chunks;
use super::types::{Envelope, Usage};
use crate::api::compat::Compat;
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::pieces::TextStyle;
use crate::api::sequence::{Finished, Piece};
use crate::api::sse::ServerSentEvent;
use crate::api::state::{App, Serving};
use crate::api::{random, sse};
use crate::constraint::ConstraintSpec;
use crate::text::{Chat, ChatTemplate, Prompt, TextError, ToolStyle};
use crate::tools::{self, Conversation, Function, ToolParser};
use crate::validation::{Draft, Input, Refusal};

/// Alternatives to a token that OpenAI's chats give at most.
const MAX_TOP_LOGPROBS: u32 = 20;

/// Answer a chat.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatRequest,
    responses((status = 200, description = "The answer",
        content((ChatCompletion = "application/json"), (ServerSentEvent = "text/event-stream")))))]
pub async fn respond(State(app): State<App>, Json(request): Json<ChatRequest>) -> Result<Response, ApiError> {
    job::respond(app, request).await
}

impl ChatRequest {
    /// The messages, and the functions that may be called, through the model's template.
    pub fn prompt(&self, serving: &Serving) -> Result<Prompt, ApiError> {
        self.check_unsupported()?;
        let tools = self.toolbox()?;
        let messages = self.template_messages()?;
        let refuse = |error: TextError| ApiError::Template(error.to_string());
        let template = serving.template.as_ref().ok_or(TextError::NoTemplate).map_err(refuse)?;
        let Conversation { messages, .. } = tools::arrange(template.tool_style(), messages, tools.as_ref());
        let definitions: Vec<_> =
            tools.iter().flat_map(|tools| tools.functions.iter().map(Function::definition)).collect();
        let options = self.template_options(serving.compat)?;
        template.apply(Chat { messages: &messages, tools: &definitions, options: &options }).map_err(refuse)
    }

    /// A draft that lets the model call what it may, and makes it call what it must.
    fn with_tools(&self, draft: Draft, serving: &Serving) -> Result<Draft, ApiError> {
        let (Some(tools), Some(style)) = (self.toolbox()?, tool_style(serving)) else { return Ok(draft) };
        let constraint = tools
            .is_forced()
            .then(|| ConstraintSpec::Lark(tools::grammar(style, &tools, self.ends_with_result())));
        let own_stop = tools::stop_string(style).map(str::to_string);
        Ok(Draft { own_stop, constraint: constraint.or(draft.constraint), ..draft })
    }

    /// How many alternatives a token may have, where that is not `of_server` (`--max-top-n-tokens`): as many as
    /// OpenAI gives, or as that flag allows if it is more.
    fn check_top_logprobs(&self, compat: Compat, of_server: u32) -> Result<Option<u32>, Refusal> {
        if compat.limits_top_logprobs() {
            return Ok(None);
        }
        let (max, n) = (MAX_TOP_LOGPROBS.max(of_server), self.top_logprobs.unwrap_or(0));
        match n <= max {
            true => Ok(Some(max)),
            false => Err(Refusal(format!("`top_logprobs` must be >= 0 and <= {max}. Given: {n}"))),
        }
    }

    /// What reads the text of one choice. The request was checked when its prompt was made.
    fn reader(&self, serving: &Serving) -> AnswerReader {
        let tools = self.toolbox().ok().flatten();
        let parser = tools
            .zip(tool_style(serving))
            .map(|(tools, style)| ToolParser::new(style, &tools, self.ends_with_result()));
        AnswerReader::new(parser, serving.compat)
    }
}

fn tool_style(serving: &Serving) -> Option<ToolStyle> {
    serving.template.as_ref().map(ChatTemplate::tool_style)
}

impl Route for ChatRequest {
    type Chunks = ChatChunks;

    const COMPUTE_TIME: bool = true;

    fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn n(&self) -> Option<usize> {
        self.n
    }

    fn shows_logprobs(&self) -> bool {
        self.logprobs.unwrap_or(false)
    }

    fn style(&self, compat: Compat) -> TextStyle {
        self.vllm.style(compat)
    }

    fn drafts(&self, serving: &Serving, _n: usize) -> Result<Vec<Draft>, ApiError> {
        let prompt = self.prompt(serving)?;
        let draft = Draft {
            choice: self.sampling.choice(),
            max_new_tokens: self.max_new_tokens(),
            stop: self.stop.clone(),
            top_n_tokens: self.top_logprobs.unwrap_or(0),
            max_top_n_tokens: self
                .check_top_logprobs(serving.compat, serving.validator.rules().max_top_n_tokens)?,
            constraint: self.constraint.constraint()?,
            logit_bias: self.sampling.logit_bias.clone(),
            ..Draft::new(Input::Prompt(prompt), random::seed())
        };
        let draft = self.with_tools(draft, serving)?;
        Ok(vec![self.vllm.apply(draft, &serving.field_route(false))?])
    }

    fn body(&self, serving: &Serving, Answers { done, usage, .. }: Answers) -> Response {
        let choice = |(index, one): (usize, Finished)| {
            let (part, finish_reason) = self.reader(serving).whole(&one.answer, one.finish);
            Choice {
                index,
                logprobs: self.shows_logprobs().then(|| Logprobs::new(&serving.tokenizer, &one.pieces)),
                message: Answer::new(part),
                finish_reason,
            }
        };
        let choices = done.into_iter().enumerate().map(choice);
        let body = ChatCompletion::new(envelope(self, serving), choices.collect(), usage);
        axum::Json(body).into_response()
    }

    fn chunks(&self, serving: &Arc<Serving>, choices: &Choices) -> ChatChunks {
        ChatChunks {
            serving: serving.clone(),
            envelope: envelope(self, serving),
            logprobs: self.shows_logprobs(),
            include_usage: self.include_usage(),
            continuous_usage: self.continuous_usage(),
            choices: choices
                .sequences
                .iter()
                .map(|_| Choosing { reader: self.reader(serving), begun: false })
                .collect(),
            usage: Usage::new(choices.sequences.first().map_or(0, |one| one.input_tokens), 0),
        }
    }
}

/// Clients that name no model, or TGI's placeholder, are told the server's.
fn envelope(request: &ChatRequest, serving: &Serving) -> Envelope {
    let model = request.model.clone().filter(|name| name != "tgi");
    Envelope::new(serving, "chatcmpl", model)
}

/// A chat stream under way.
pub struct ChatChunks {
    serving: Arc<Serving>,
    envelope: Envelope,
    logprobs: bool,
    include_usage: bool,
    /// In every chunk the usage so far.
    continuous_usage: bool,
    choices: Vec<Choosing>,
    usage: Usage,
}

/// One choice under way.
struct Choosing {
    reader: AnswerReader,
    /// A chunk of it was sent.
    begun: bool,
}

impl Chunks for ChatChunks {
    /// A piece that adds nothing yet has no chunk.
    fn chunk(&mut self, index: usize, piece: &Piece) -> Option<Event> {
        self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens + 1);
        let Choosing { reader, begun } = self.choices.get_mut(index)?;
        let part = reader.push(&piece.text, piece.finish.is_some());
        if reader.holds_back(&part) && piece.finish.is_none() && !self.logprobs {
            return None;
        }
        let goes_on = std::mem::replace(begun, true) && !self.serving.compat.repeats_role();
        let choice = ChunkChoice {
            index,
            finish_reason: piece.finish.map(|finish| reader.reason(finish)),
            delta: if goes_on { Answer::more(part) } else { Answer::new(part) },
            logprobs: self
                .logprobs
                .then(|| Logprobs::new(&self.serving.tokenizer, std::slice::from_ref(piece))),
        };
        let usage = self.continuous_usage.then_some(self.usage);
        Some(sse::json(&Chunk::new(&self.envelope, &[choice], usage)))
    }

    fn usage(&mut self) -> Option<Event> {
        self.include_usage.then(|| sse::json(&Chunk::new(&self.envelope, &[], Some(self.usage))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_allows_more_alternatives_than_openai_never_fewer() {
        let check = |n: u32, compat, of_server| {
            let body =
                format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], "top_logprobs": {n}}}"#);
            let request: ChatRequest = serde_json::from_str(&body).unwrap();
            request.check_top_logprobs(compat, of_server).map_err(|refusal| refusal.0)
        };
        let refused = |max, n| Err(format!("`top_logprobs` must be >= 0 and <= {max}. Given: {n}"));
        for (n, compat, of_server, expected) in [
            (20, Compat::Fixed, 5, Ok(Some(20))),
            (21, Compat::Fixed, 5, refused(20, 21)),
            (30, Compat::Fixed, 30, Ok(Some(30))),
            (31, Compat::Fixed, 30, refused(30, 31)),
            (30, Compat::Strict, 5, Ok(None)),
        ] {
            assert_eq!(check(n, compat, of_server), expected, "{n} {compat:?} {of_server}");
        }
    }
}
