//! Text of sequences by example and by property: what is shown adds up to the answer, cut at a stop string.

use proptest::prelude::*;

use super::*;
use crate::text::testing;

const OPEN_AI: TextStyle = TextStyle::OpenAi { keep_stop: false, show_special: false };

/// Pushes bytes as tokens (the small tiktoken vocabulary's first 256 ranks) until a finish; what was shown.
fn run(
    style: TextStyle,
    stops: &[&str],
    ids: &[u32],
    end: FinishReason,
) -> (Vec<String>, String, Option<Finish>) {
    let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
    let mut pieces = Pieces::new(&testing::tiktoken(), &stops, style);
    let mut shown = Vec::new();
    for (i, &id) in ids.iter().enumerate() {
        let piece = pieces.push(id, (i + 1 == ids.len()).then_some(end));
        shown.push(piece.shown);
        if piece.finish.is_some() {
            return (shown, pieces.answer().to_string(), piece.finish);
        }
    }
    (shown, pieces.answer().to_string(), None)
}

/// Ids of single bytes.
fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

const HELLO: u32 = 259;

fn end_token() -> u32 {
    testing::tiktoken().token_id("<|im_end|>").unwrap()
}

#[test]
fn texts() {
    use Finish::{Eos, Length, Stop};
    use TextStyle::Tgi;
    let check = |style, stops: &[&str], ids: &[u32], end, shown: &[&str], answer: &str, finish| {
        let shown = shown.iter().map(|s| s.to_string()).collect();
        assert_eq!(run(style, stops, ids, end), (shown, answer.to_string(), Some(finish)), "{stops:?}");
    };
    let (length, eos) = (FinishReason::Length, FinishReason::Eos);
    let ended = [bytes("a"), vec![end_token()]].concat();
    check(Tgi, &[], &ended, eos, &["a", "<|im_end|>"], "a", Eos);
    check(OPEN_AI, &[], &ended, eos, &["a", ""], "a", Eos);
    // What ends an answer is no part of it, even where its text is not special.
    check(OPEN_AI, &[], &[97, HELLO], eos, &["a", ""], "a", Eos);
    check(OPEN_AI, &["h"], &[97, HELLO], eos, &["a", ""], "a", Eos);
    let special = |keep_stop| TextStyle::OpenAi { keep_stop, show_special: true };
    let spoken = [vec![end_token()], ended.clone()].concat();
    check(special(false), &[], &spoken, eos, &["<|im_end|>", "a", ""], "<|im_end|>a", Eos);
    check(special(true), &[], &ended, eos, &["a", "<|im_end|>"], "a<|im_end|>", Eos);
    check(special(true), &["l"], &[HELLO, 33], length, &["hel"], "hel", Stop);
    // Half a character at the end is shown as such, never at the cost of the rest.
    let half = [bytes("a"), vec![0xe4, 0xbd]].concat();
    check(Tgi, &[], &half, length, &["a", "", "\u{fffd}"], "a\u{fffd}", Length);
    check(OPEN_AI, &[], &half, length, &["a", "", "\u{fffd}"], "a\u{fffd}", Length);
    // A stop string inside a token.
    check(Tgi, &["l"], &[HELLO, 33], length, &["hel"], "hel", Stop);
    check(OPEN_AI, &["l"], &[HELLO, 33], length, &["he"], "he", Stop);
}

#[test]
fn stop_strings_across_tokens() {
    let w = testing::tiktoken().encode(" w", false).unwrap().ids;
    let ids = [vec![HELLO], w, bytes("x!")].concat();
    let tgi = run(TextStyle::Tgi, &["lo wx"], &ids, FinishReason::Length);
    assert_eq!(tgi.0.concat(), "hello wx");
    assert_eq!((tgi.1.as_str(), tgi.2), ("hello wx", Some(Finish::Stop)));
    let openai = run(OPEN_AI, &["lo wx"], &ids, FinishReason::Length);
    assert_eq!(openai.0[0], "hel");
    assert_eq!((openai.0.concat().as_str(), openai.1.as_str(), openai.2), ("hel", "hel", Some(Finish::Stop)));
    // Held back text comes out when the generation ends for another reason.
    let held = run(OPEN_AI, &["lo wz"], &ids, FinishReason::Length);
    assert_eq!((held.0.concat().as_str(), held.2), ("hello wx!", Some(Finish::Length)));
}

#[test]
fn a_special_token_as_stop_string() {
    let start = testing::tiktoken().token_id("<|im_start|>").unwrap();
    // Half a character and the beginning of another stop string come out when the sequence ends.
    let ids = [bytes("a"), vec![0xe2, start], bytes("b")].concat();
    let stops = ["<|im_start|>", "a\u{fffd}x"];
    let (shown, answer, finish) = run(TextStyle::Tgi, &stops, &ids, FinishReason::Length);
    assert_eq!(shown, ["a", "", "\u{fffd}<|im_start|>"]);
    assert_eq!((answer.as_str(), finish), ("a\u{fffd}", Some(Finish::Stop)));
    let (shown, answer, finish) = run(OPEN_AI, &stops, &ids, FinishReason::Length);
    assert_eq!(
        (shown.concat().as_str(), answer.as_str(), finish),
        ("a\u{fffd}", "a\u{fffd}", Some(Finish::Stop))
    );
    // TGI's order: the end token counts before the stop string.
    let ended = [bytes("a"), vec![end_token()]].concat();
    let (_, _, finish) = run(TextStyle::Tgi, &["<|im_end|>"], &ended, FinishReason::Eos);
    assert_eq!(finish, Some(Finish::Eos));
}

#[test]
fn a_stop_string_in_the_last_token() {
    let ids = bytes("ab");
    for (style, answer, finish) in [(TextStyle::Tgi, "ab", Finish::Length), (OPEN_AI, "a", Finish::Stop)] {
        let (_, text, reason) = run(style, &["b"], &ids, FinishReason::Length);
        assert_eq!((text.as_str(), reason), (answer, Some(finish)));
    }
}

/// The text up to the first stop string to be complete (the longest of those), with and without it.
fn cut(text: &str, stops: &[&str]) -> Option<(String, String)> {
    (0..=text.len()).find_map(|end| {
        let complete = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes()));
        let stop = complete.max_by_key(|s| s.len())?;
        Some((text[..end].to_string(), text[..end - stop.len()].to_string()))
    })
}

proptest! {
    #[test]
    fn what_is_shown_is_the_answer(
        ids in prop::collection::vec(prop_oneof![0u32..270, 97u32..100], 1..30),
        stops in prop::collection::vec("[abc]{1,3}", 0..3),
    ) {
        let tokenizer = testing::tiktoken();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let text = tokenizer.decode(&ids, true);
        let cut = cut(&text, &stops);
        let (shown, answer, _) = run(OPEN_AI, &stops, &ids, FinishReason::Length);
        prop_assert_eq!(shown.concat(), answer.clone());
        prop_assert_eq!(&answer, cut.as_ref().map_or(&text, |(_, before)| before));
        let (shown, answer, _) = run(TextStyle::Tgi, &stops, &ids, FinishReason::Length);
        prop_assert_eq!(&answer, cut.as_ref().map_or(&text, |(with, _)| with));
        if ids.iter().all(|&id| !tokenizer.is_special(id)) {
            prop_assert_eq!(shown.concat(), answer);
        }
    }
}
