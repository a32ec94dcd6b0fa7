//! Random schemas, expressions and grammars: each is refused or leads somewhere, within the library's own limits.

use super::fuzz::{Random, executions, mutate};
use crate::constraint::{Compiler, Constraint, ConstraintSpec, TokenMask, testing::VOCAB_SIZE};
use crate::text::testing::tiktoken;

const SCHEMAS: &[&str] = &[
    r##"{"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":9},"b":{"type":["string","null"],"maxLength":5}},"required":["a"]}"##,
    r##"{"type":"array","items":{"enum":["x",1,null]},"minItems":1,"maxItems":3}"##,
    r##"{"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}}}},"$ref":"#/$defs/n"}"##,
    r##"{"anyOf":[{"type":"number","multipleOf":2},{"const":{"a":[]}}],"allOf":[{"type":"number"}]}"##,
    r##"{"type":"string","pattern":"^[a-z]{2,4}$","format":"date"}"##,
    r##"{"type":"object","additionalProperties":{"type":"boolean"},"patternProperties":{"^a":{}}}"##,
];
const REGEXES: &[&str] =
    &["[a-z]+(b|c){2,5}", r"\d{3}-\w*", "^a.*b$", "(?i:x|y)?[^é]", "((a{9}){9}){9}", r"\p{L}+\s"];
const GRAMMARS: &[&str] = &[
    "start: \"a\" b+ | %json {\"type\":\"null\"}\nb: /[0-9]+/ \"x\"{2,3}",
    "start: expr\nexpr: expr \"+\" expr | NUM\nNUM: /[0-9]/\n%ignore / +/",
    "root ::= item (\",\" item)*\nitem ::= [a-c]+ | \"\\\"\" root",
];

fn spec(random: &mut Random) -> Option<ConstraintSpec> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match random.below(4) {
        0 => serde_json::from_slice(&mutate(random, SCHEMAS)).ok().map(ConstraintSpec::JsonSchema),
        1 => Some(ConstraintSpec::Regex(text(mutate(random, REGEXES)))),
        2 => Some(ConstraintSpec::Lark(text(mutate(random, GRAMMARS)))),
        _ => {
            let one = |random: &mut Random| text(mutate(random, REGEXES));
            Some(ConstraintSpec::Choice((0..random.below(4)).map(|_| one(random)).collect()))
        }
    }
}

/// Some allowed token, none of which ends the text.
fn some_token(random: &mut Random, mask: &TokenMask) -> Option<u32> {
    let end = tiktoken();
    let allowed: Vec<u32> =
        (0..VOCAB_SIZE).filter(|&id| mask.allows(id) && !end.eos_ids().contains(&id)).collect();
    (!allowed.is_empty()).then(|| allowed[random.below(allowed.len())])
}

/// A few tokens of an answer, each of which the mask before allowed.
fn follow(random: &mut Random, constraint: &Constraint) {
    let (mut progress, mut mask) = (constraint.begin(), constraint.first_mask().clone());
    for _ in 0..random.below(20) {
        assert!(mask.n_allowed() > 0, "an answer can always go on or end");
        let Some(token) = some_token(random, &mask) else { return };
        match progress.advance(token) {
            Ok(next) => mask = next,
            Err(reason) => return assert!(!reason.contains("panic"), "{reason}"),
        }
    }
}

#[tokio::test]
async fn grammars() {
    let compiler = Compiler::new(tiktoken(), VOCAB_SIZE, 1);
    let mut random = Random(5);
    let mut n_compiled = 0;
    // Compiling costs more than parsing.
    let n = executions() / 100;
    for _ in 0..n {
        let Some(spec) = spec(&mut random) else { continue };
        match compiler.compile(spec.clone()).await {
            Ok(constraint) => {
                n_compiled += 1;
                follow(&mut random, &constraint);
            }
            Err(reason) => {
                assert!(
                    !reason.contains("panic") && !reason.contains("not compiled within"),
                    "{spec:?}: {reason}"
                );
            }
        }
    }
    assert!(n_compiled > n / 10, "the mutations leave enough that can be compiled: {n_compiled}");
}
