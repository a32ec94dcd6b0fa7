//! Where this server answers other than TGI on purpose, and the way back: `--tgi-compat strict`.
//!
//! One method a difference, so that each can be found by its use. What is not here is the same in both
//! modes: TGI's behaviour where it is sound, the corrected one where nobody can depend on the fault.

use clap::ValueEnum;

/// Whose behaviour counts where TGI's is a known fault that clients may have adapted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    /// The corrected behaviour.
    #[default]
    Fixed,
    /// TGI's own, faults included.
    Strict,
}

impl Compat {
    /// A body without `parameters` samples, while one with empty `parameters` does not.
    pub fn samples_without_parameters(self) -> bool {
        self == Self::Strict
    }

    /// A stream that fails before its first token is a 200 with one error event, not an HTTP status.
    pub fn streams_every_error(self) -> bool {
        self == Self::Strict
    }

    /// OpenAI's routes leave the stop string at the end of the answer.
    pub fn keeps_stop_on_v1(self) -> bool {
        self == Self::Strict
    }

    /// OpenAI's routes say `stop_sequence` where OpenAI says `stop`.
    pub fn names_stop_sequence_on_v1(self) -> bool {
        self == Self::Strict
    }

    /// Answers of OpenAI's routes have the id "".
    pub fn has_empty_ids(self) -> bool {
        self == Self::Strict
    }

    /// Calls of tools have the ids "0", "1", ... and end an answer as `stop`.
    pub fn numbers_tool_calls(self) -> bool {
        self == Self::Strict
    }

    /// Every delta of a chat stream says its role, not only the first of a choice.
    pub fn repeats_role(self) -> bool {
        self == Self::Strict
    }

    /// `decoder_input_details` gives an empty `prefill` unless the server was started with
    /// `--enable-prefill-logprobs`.
    pub fn needs_prefill_flag(self) -> bool {
        self == Self::Strict
    }

    /// The API key guards only the routes that generate and /tokenize.
    pub fn leaves_information_open(self) -> bool {
        self == Self::Strict
    }

    /// Fields of vLLM's requests that are not done here are passed over.
    pub fn ignores_unsupported_fields(self) -> bool {
        self == Self::Strict
    }

    /// Chats give as few alternatives to a token as TGI's own routes (`--max-top-n-tokens`).
    pub fn limits_top_logprobs(self) -> bool {
        self == Self::Strict
    }

    /// Every failure of /vertex is a 500.
    pub fn hides_vertex_errors(self) -> bool {
        self == Self::Strict
    }
}
